// Liveness only: every page works without this file. It listens to the feed and lets htmx fetch the parts
// marked `data-live` again; it never builds HTML from what it hears.
(function () {
  "use strict";

  var QUIET_MS = 250; // several changes close together are one refresh
  var FIRST_RETRY_MS = 1000;
  var LAST_RETRY_MS = 30000;
  var REST = 4; // times as long as the last refresh took

  var status = document.getElementById("live-status");
  var retryMs = FIRST_RETRY_MS;
  var timer = 0;
  var missed = false;

  function show(state, text) {
    if (!status) return;
    status.hidden = false;
    status.dataset.state = state;
    if (status.textContent !== text) status.textContent = text;
  }

  // One refresh at a time, and rests between them that grow with what a refresh costs the daemon.
  var busySince = 0;
  var again = false;

  function refresh() {
    timer = 0;
    var part = document.querySelector("[data-live]");
    if (document.hidden || !part) {
      missed = Boolean(part);
      return;
    }
    missed = again = false;
    busySince = performance.now();
    htmx.trigger(part, "feed");
  }

  function refreshSoon() {
    if (busySince) again = true;
    else if (!timer) timer = window.setTimeout(refresh, QUIET_MS);
  }

  document.addEventListener("htmx:afterRequest", function () {
    var tookMs = performance.now() - busySince;
    busySince = 0;
    if (again && !timer) timer = window.setTimeout(refresh, Math.max(QUIET_MS, REST * tookMs));
  });

  function listen() {
    var source = new EventSource(document.body.dataset.stream);
    var wasLost = status && status.dataset.state === "lost";

    source.onopen = function () {
      retryMs = FIRST_RETRY_MS;
      if (wasLost) refreshSoon();
      wasLost = false;
      show("on", "Live");
    };
    source.onmessage = refreshSoon;
    ["incident", "control", "reload"].forEach(function (name) {
      source.addEventListener(name, refreshSoon);
    });
    source.onerror = function () {
      wasLost = true;
      show("lost", "Connection lost, trying again");
      if (source.readyState !== EventSource.CLOSED) return; // the browser itself tries again
      source.close();
      window.setTimeout(listen, retryMs * (0.5 + Math.random()));
      retryMs = Math.min(retryMs * 2, LAST_RETRY_MS);
    };
  }

  // What a reader opened stays open when its part is fetched again, and new rows are marked for a moment.
  var opened = [];
  var rows = new Set();
  document.addEventListener("htmx:beforeSwap", function () {
    opened = idsOf("details[id][open]");
    rows = new Set(idsOf("tr[id]"));
  });
  document.addEventListener("htmx:afterSwap", function () {
    opened.forEach(function (id) {
      var part = document.getElementById(id);
      if (part) part.open = true;
    });
    idsOf("tr[id]").forEach(function (id) {
      if (!rows.has(id)) document.getElementById(id).classList.add("fresh");
    });
    rows = new Set(idsOf("tr[id]"));
    tellAges();
    announce();
  });

  function idsOf(selector) {
    return Array.from(document.querySelectorAll(selector)).map(function (part) {
      return part.id;
    });
  }

  // A screen reader hears one sentence about the change, never the whole table again.
  function announce() {
    var announcer = document.getElementById("announcer");
    var summary = document.querySelector("[data-summary]");
    if (!announcer || !summary) return;
    if (announcer.textContent !== summary.dataset.summary) announcer.textContent = summary.dataset.summary;
  }
  document.addEventListener("htmx:sendError", function () {
    show("lost", "Connection lost, trying again");
  });

  function spell(seconds) {
    if (seconds < 60) return Math.floor(seconds) + " s";
    if (seconds < 3600) return Math.floor(seconds / 60) + " min";
    if (seconds < 172800) return Math.floor(seconds / 3600) + " h " + (Math.floor(seconds / 60) % 60) + " min";
    return Math.floor(seconds / 86400) + " d";
  }

  // Ages are told by the daemon's clock: the reader's may be off.
  var aheadMs = Date.parse(document.body.dataset.now) - Date.now() || 0;

  function tellAges() {
    var now = Date.now() + aheadMs;
    document.querySelectorAll("time[data-age]").forEach(function (part) {
      var seconds = (now - Date.parse(part.dateTime)) / 1000;
      if (part.dataset.age === "left") part.textContent = seconds < 0 ? "in " + spell(-seconds) : "now";
      else part.textContent = seconds < 1 ? "now" : spell(seconds) + " ago";
    });
  }

  document.addEventListener("visibilitychange", function () {
    if (!document.hidden && missed) refresh();
  });
  window.setInterval(tellAges, 10000);
  if (document.body.dataset.stream) listen();
})();
