"""The dashboard in a real browser: live, by keyboard, on a phone, for weak eyes, under attack, without a script."""

import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from backends.chromium import ARGUMENTS
from playwright.async_api import Page, async_playwright, expect
from scenes.dashboard import HOSTILE, TOKENS, scene

from oncall_agent.models import IncidentState, Verdict
from oncall_agent.store import ControlChange

pytestmark = pytest.mark.backend("chromium")

PROBE = (Path(__file__).parent / "dashboard_probe.js").read_text()
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (found) => {
  window.violations.push(found.violatedDirective + " " + found.blockedURI);
});
"""
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 740}
MOST_TABS = 60
FOCUSED = """() => {
  const part = document.activeElement, look = getComputedStyle(part);
  const box = part.getBoundingClientRect();
  return {
    name: (part.getAttribute("aria-label") || part.textContent || "").trim(),
    tag: part.tagName,
    ringed: look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2,
    seen: box.width > 0 && box.top < innerHeight && box.bottom > 0,
  };
}"""


@pytest.fixture
async def chromium(chromium_path):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=list(ARGUMENTS))
        yield browser
        await browser.close()


@asynccontextmanager
async def page_of(chromium, found, **options):
    """A fresh page; at its end nothing may have been complained of."""
    context = await chromium.new_context(base_url=found.base, viewport=DESKTOP, **options)
    page = await context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.add_init_script(WATCH)
    yield page
    violations = await page.evaluate("window.violations || []")
    await context.close()
    assert (complaints, violations) == ([], [])


async def live(page: Page) -> None:
    await expect(page.locator("#live-status")).to_have_text("Live")


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until something of that name has the focus; each stop must be visible and ringed."""
    for _ in range(MOST_TABS):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(FOCUSED)
        if focused["tag"] != "BODY":
            assert focused["ringed"], focused
            assert focused["seen"], focused
        if focused["name"].startswith(name):
            return
    raise AssertionError(f"{name} can't be reached by keyboard")


async def test_new_incident_appears_without_a_reload(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        await page.goto("/")
        await live(page)
        await page.evaluate("window.loadedOnce = true")
        incident_id = await found.alert("search")
        await expect(page.locator(f"#row-{incident_id}")).to_be_visible()
        await expect(page.locator("#chip-queued b")).to_have_text("1")
        await expect(page.locator("#announcer")).to_have_text("1 incidents open, 0 escalated")
        await found.heal()
        await expect(page.locator(f"#row-{incident_id} .state")).to_contain_text("resolved")
        await expect(page.locator(".equation")).to_contain_text("balanced: yes")
        assert await page.evaluate("window.loadedOnce")


async def test_banner_and_count_of_approvals_are_live_everywhere(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        await page.goto("/backends")
        await live(page)
        await found.alert()
        await found.ask()
        await expect(page.locator("#pending")).to_contain_text("1")
        await page.goto("/control")
        await live(page)
        await page.get_by_label("Reason").fill("typed before the switch was turned")
        await found.store.set_control(ControlChange(paused=True, reason="bad deploy"), "eva", found.now)
        await expect(page.locator("#banners")).to_contain_text("pressed by eva")
        await expect(page.locator("#resume")).to_be_visible()
        await expect(page.get_by_label("Reason")).to_have_value("typed before the switch was turned")


async def test_refresh_keeps_the_focus_and_what_was_opened(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        incident_id = await found.alert()
        await found.ask()
        await page.goto(f"/incidents/{incident_id}")
        await live(page)
        await page.locator("#exact summary").click()
        await page.locator("#escalate").focus()
        await page.evaluate("document.querySelector('#exact').dataset.old = 'yes'")
        await found.alert("another")
        await expect(page.locator("#exact:not([data-old])")).to_have_count(1)
        assert await page.evaluate("document.querySelector('#exact').open")
        assert await page.evaluate("document.activeElement.id") == "escalate"


async def test_lost_connection_is_seen_and_mended(chromium, tmp_path):
    async with scene(tmp_path) as found:
        context = await chromium.new_context(base_url=found.base, viewport=DESKTOP)
        page = await context.new_page()
        await page.goto("/")
        await live(page)
        port = await found.stop_serving()
        await expect(page.locator("#live-status")).to_have_text("Connection lost, trying again")
        missed = await found.alert()
        await found.serve_again(port)
        await expect(page.locator("#live-status")).to_have_text("Live", timeout=20_000)
        await expect(page.locator(f"#row-{missed}")).to_be_visible()
        await context.close()


async def test_kill_switch_by_keyboard_alone(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        await page.goto("/")
        await page.keyboard.press("Tab")
        assert (await page.evaluate(FOCUSED))["name"] == "Skip to the content"
        await tab_to(page, "Control")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/control")
        await tab_to(page, "Stop everything")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/control/pause*")
        assert not found.store.control.paused
        await tab_to(page, "Stop everything now")
        await page.keyboard.press("Enter")
        await expect(page.locator("#banners")).to_contain_text("The kill switch was pressed by local")
        assert found.store.control.paused


async def test_incident_approved_by_keyboard_alone(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        await found.alert()
        approval = await found.ask()
        await page.goto("/")
        await tab_to(page, "payments-api is not well")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/incidents/*")
        await tab_to(page, "Approve")
        await page.keyboard.press("Space")
        await expect(page.locator(".notice")).to_have_text("Your approval is recorded.")
        [decided] = await found.store.approvals(pending_only=False)
        assert (approval.id, Verdict.APPROVED) == (decided.id, decided.verdict)


async def test_skip_link_leads_to_the_content(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        await page.goto("/")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.querySelector('main').contains(document.activeElement)")


async def paths_of(found):
    """Every page, each with something to show; long and hostile words among it."""
    long_name = "a-very-long-target-name-without-any-place-to-break-it-" + "x" * 60
    await found.alert(long_name, name="W" * 180, labels={"alertname": "W" * 180, "pod": "y" * 300})
    resolved = await found.heal(detail="z" * 300)
    await found.alert("search", annotations={"summary": HOSTILE})
    approval = await found.ask()
    await found.alert("payments-api", name=HOSTILE)
    incidents = [f"/incidents/{resolved}", f"/incidents/{approval.incident_id}"]
    return ["/", *incidents, "/approvals", "/backends", "/conservation", "/control", "/control/pause"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_page_fits_is_readable_and_named(chromium, tmp_path, viewport, scheme):
    async with (
        scene(tmp_path, autonomy="shadow") as found,
        page_of(chromium, found, color_scheme=scheme) as page,
    ):
        await page.set_viewport_size(viewport)
        for path in await paths_of(found):
            await page.goto(path)
            await page.evaluate(
                "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
            )
            seen = await page.evaluate(PROBE)
            expected = {
                "faint": [],
                "nameless": [],
                "small": [],
                "edges": [],
                "headings": 1,
                "landmarks": [],
                "overflow": 0,
                "focusable": 0,
            }
            assert expected == seen, path


async def test_alert_text_stays_inert(chromium, tmp_path):
    async with scene(tmp_path) as found, page_of(chromium, found) as page:
        incident_id = await found.alert(
            "payments-api",
            name=HOSTILE,
            labels={"alertname": HOSTILE, HOSTILE: HOSTILE},
            annotations={"summary": HOSTILE},
            link="javascript:window.owned=1",
        )
        await page.goto("/")
        await live(page)
        await found.alert("search", name=HOSTILE)
        await expect(page.locator("tbody tr")).to_have_count(2)
        assert await page.evaluate("window.owned === undefined")
        await page.goto(f"/incidents/{incident_id}")
        await live(page)
        await expect(page.locator("h1")).to_have_text(HOSTILE)
        assert await page.evaluate("window.owned === undefined")
        assert await page.title() != "owned"
        assert await page.locator("img").count() == 0


async def test_works_without_a_script(chromium, tmp_path):
    async with scene(tmp_path, tokens=True) as found:
        context = await chromium.new_context(base_url=found.base, java_script_enabled=False)
        page = await context.new_page()
        await found.alert()
        approval = await found.ask()
        await page.goto("/approvals")
        await page.get_by_label("Your access token").fill(TOKENS["ana"][1])
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("button", name="Approve").click()
        await expect(page.locator(".notice")).to_have_text("Your approval is recorded.")
        await page.get_by_role("link", name="Control").click()
        await page.get_by_role("button", name="Stop everything").click()
        await page.get_by_label("Reason").fill("bad deploy")
        await page.get_by_role("button", name="Stop everything now").click()
        await expect(page.locator("#banners")).to_contain_text("pressed by ana: bad deploy")
        await context.close()
        assert found.store.control.paused
        assert IncidentState.QUEUED is (await found.store.incident(approval.incident_id)).incident.state


async def test_ended_session_leads_from_the_live_page_to_the_sign_in(chromium, tmp_path):
    async with scene(tmp_path, tokens=True) as found:
        context = await chromium.new_context(base_url=found.base)
        page = await context.new_page()
        await page.goto("/")
        await page.get_by_label("Your access token").fill(TOKENS["ana"][1])
        await page.get_by_role("button", name="Sign in").click()
        await live(page)
        await context.clear_cookies()
        await found.alert()
        await page.wait_for_url(re.compile(r"/login\?next="), timeout=10_000)
        await context.close()
