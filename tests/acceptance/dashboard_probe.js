// Read by the browser test: what a page looks like to people who see little or use no mouse.
(() => {
  const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const channel = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (part) => {
    for (let here = part; here; here = here.parentElement) {
      const colour = rgb(getComputedStyle(here).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const shown = (part) => part.getClientRects().length > 0 && !part.closest(".visually-hidden");
  const spoken = (part) => {
    const label = part.id && document.querySelector(`label[for="${part.id}"]`);
    return (part.getAttribute("aria-label") || (label || part).textContent || "").trim();
  };
  const text = (part) => Array.from(part.childNodes).some((node) => node.nodeType === 3 && node.data.trim());
  const faint = Array.from(document.querySelectorAll("body *"))
    .filter((part) => text(part) && shown(part) && !part.closest("svg"))
    .flatMap((part) => [[part, null], [part, "::before"]])
    .filter(([part, pseudo]) => !pseudo || !["none", "normal", '""'].includes(getComputedStyle(part, pseudo).content))
    .map(([part, pseudo]) => [part, ratio(rgb(getComputedStyle(part, pseudo).color), ground(part))])
    .filter(([, found]) => found < 4.5)
    .map(([part, found]) => `${part.tagName}.${part.className} ${found.toFixed(2)}: ${part.textContent.trim().slice(0, 40)}`);
  const controls = Array.from(document.querySelectorAll("a, button, input:not([type=hidden]), select, summary")).filter(shown);
  return {
    faint,
    nameless: controls.filter((part) => !spoken(part)).map((part) => part.outerHTML.slice(0, 120)),
    small: Array.from(document.querySelectorAll("button, .places a, .chips a, input:not([type=hidden]), select"))
      .filter((part) => shown(part) && part.getBoundingClientRect().height < 24)
      .map((part) => part.outerHTML.slice(0, 120)),
    edges: Array.from(document.querySelectorAll("input:not([type=hidden]), select, button"))
      .filter(shown)
      .filter((part) => {
        const look = getComputedStyle(part);
        const around = ground(part.parentElement);
        const drawn = [look.borderTopColor, look.backgroundColor].map(rgb).filter((colour) => colour[3] !== 0);
        return Math.max(...drawn.map((colour) => ratio(colour, around))) < 3;
      })
      .map((part) => part.outerHTML.slice(0, 120)),
    headings: document.querySelectorAll("h1").length,
    landmarks: ["header.masthead", "nav", "main", "footer"].filter((name) => !document.querySelector(name)),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    focusable: controls.filter((part) => part.tabIndex > 0).length,
  };
})();
