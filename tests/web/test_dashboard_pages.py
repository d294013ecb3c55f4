"""The dashboard as a browser without a script sees it: real store, real server, plain requests."""

import re

import pytest
from scenes.browser import PATHS, Browser, Document, filled
from scenes.dashboard import HOSTILE, scene

from oncall_agent.errors import StoreError


@pytest.fixture
async def opened(tmp_path):
    async with scene(tmp_path) as found:
        browser = Browser(found.base)
        yield found, browser
        await browser.session.close()


# --- every page ------------------------------------------------------------------------------------------------


async def test_every_page_is_well_formed_and_strictly_guarded(opened):
    found, browser = opened
    resolved, approval = await filled(found)
    for path in (*PATHS, f"/incidents/{resolved}", f"/incidents/{approval.incident_id}"):
        response, text = await browser.get(path)
        assert (response.status, response.content_type) == (200, "text/html"), path
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        document = Document(text)
        assert (document.open, document.unclosed) == ([], []), path


async def test_every_page_has_one_heading_landmarks_labels_and_no_inline_code(opened):
    found, browser = opened
    resolved, approval = await filled(found)
    for path in (*PATHS, f"/incidents/{resolved}", f"/incidents/{approval.incident_id}"):
        document = Document((await browser.get(path))[1])
        labelled = {attributes.get("for") for attributes in document.all("label")}
        fields = [a for a in document.all("input", "select", "textarea") if a.get("type") != "hidden"]
        ids = [a["id"] for _, a in document.elements if "id" in a]
        inline = [a for _, a in document.elements if any(n == "style" or n.startswith("on") for n in a)]
        assert len(document.all("h1")) == 1, path
        mastheads = [a for a in document.all("header") if a.get("class") == "masthead"]
        assert (len(mastheads), len(document.all("main")), len(document.all("footer"))) == (1, 1, 1), path
        assert all(field["id"] in labelled for field in fields), path
        assert len(ids) == len(set(ids)), path
        assert inline == [], path
        assert document.all("style") == [], path
        assert all("src" in a for a in document.all("script")), path
        assert document.all("a")[0]["href"] == "#main", path


async def test_nothing_is_fetched_from_another_origin(opened):
    _, browser = opened
    document = Document((await browser.get("/"))[1])
    addresses = [a.get("src") or a.get("href") for a in document.all("script", "link", "img")]
    assert addresses
    assert all(address.startswith("/static/") for address in addresses)
    for address in addresses:
        response, _ = await browser.get(address)
        assert response.status == 200
        assert "immutable" in response.headers["Cache-Control"]
        mark = response.headers["ETag"]
        again, _ = await browser.get(address.partition("?")[0], **{"If-None-Match": mark})
        assert again.status == 304


async def test_static_names_are_a_closed_list(opened):
    _, browser = opened
    for name in ("nothing.js", "../base.html", "..%2f..%2fauth.py", "%2e%2e/auth.py", "vendor/"):
        response, text = await browser.get(f"/static/{name}")
        assert response.status == 404
        assert "import" not in text


# --- incidents ---------------------------------------------------------------------------------------------------


async def test_first_page_shows_incidents_counts_and_the_equation(opened):
    found, browser = opened
    await filled(found)
    _, text = await browser.get("/")
    assert "balanced: yes" in text
    assert re.search(r"<b>2</b> <span>accepted</span>", text)
    assert re.search(r"open <b>1</b>", text)
    assert re.search(r"resolved <b>1</b>", text)
    assert "payments-api is not well" in text


async def test_filter_leaves_out_what_does_not_fit(opened):
    found, browser = opened
    resolved, approval = await filled(found)
    for query, shown, hidden in (
        ("state=resolved", resolved, approval.incident_id),
        ("state=open", approval.incident_id, resolved),
        ("target=search", approval.incident_id, resolved),
        ("class=crash&target=payments-api", resolved, approval.incident_id),
    ):
        _, text = await browser.get(f"/?{query}")
        assert f'id="row-{shown}"' in text, query
        assert f'id="row-{hidden}"' not in text, query
    _, text = await browser.get("/?class=disk")
    assert "No incident fits this filter" in text


@pytest.mark.parametrize(
    "query",
    ["state=nonsense", "cursor=%00", "cursor=';--", "class=%00", "target=" + "x" * 5_000, "state=" + "%ff"],
)
async def test_address_that_makes_no_sense_shows_the_page(opened, query):
    _, browser = opened
    response, _ = await browser.get(f"/?{query}")
    assert response.status == 200


async def test_pages_of_incidents_follow_each_other_without_gaps(opened):
    found, browser = opened
    made = [await found.alert(f"target-{number}") for number in range(120)]
    seen, path = [], "/"
    while path:
        _, text = await browser.get(path)
        seen += re.findall(r'id="row-([0-9a-f-]+)"', text)
        older = re.search(r'id="older" href="([^"]+)"', text)
        path = older[1].replace("&amp;", "&") if older else ""
    assert made[::-1] == seen


async def test_live_part_comes_without_the_frame(opened):
    found, browser = opened
    incident_id = await found.alert()
    response, text = await browser.get("/", **{"HX-Request": "true"})
    assert "Vary" in response.headers
    assert f'id="row-{incident_id}"' in text
    assert "<html" not in text
    assert 'hx-swap-oob="innerHTML:#banners"' in text


async def test_incident_page_says_why_and_what_was_done(opened):
    found, browser = opened
    resolved, approval = await filled(found)
    _, text = await browser.get(f"/incidents/{resolved}")
    for words in (
        "recomputed = stored: yes",
        "docker.restart_container",
        "docker.recreate_with_image",
        "cooldown",
        "tried 120 s ago",
        "12 of 100",
        "97 of 100",
        "healthy for 30 s",
        "+0.81",
        "attempt.finished",
        "payments-api is not well",
    ):
        assert words in text, words
    _, text = await browser.get(f"/incidents/{approval.incident_id}")
    assert "May it do this?" in text
    assert f'action="/approvals/{approval.id}/approve"' in text


@pytest.mark.parametrize("name", ["nope", "01930000-0000-7000-8000-000000000000", "%00", "../control"])
async def test_unknown_incident_is_a_page_that_says_so(opened, name):
    _, browser = opened
    response, text = await browser.get(f"/incidents/{name}")
    assert response.status in {200, 404}
    assert (response.status == 404) == ("Not Found" in text)


async def test_alert_text_is_never_markup(opened):
    found, browser = opened
    incident_id = await found.alert(
        "payments-api",
        name=HOSTILE,
        labels={
            "alertname": HOSTILE,
            HOSTILE: HOSTILE,
            'x" onmouseover="owned()': '"><script>owned()</script>',
        },
        annotations={"summary": HOSTILE, HOSTILE: "y"},
        link="javascript:window.owned=1",
    )
    await found.heal(detail=HOSTILE)
    for path in ("/", f"/incidents/{incident_id}"):
        for headers in ({}, {"HX-Request": "true"}):
            _, text = await browser.get(path, **headers)
            document = Document(text)
            assert "&lt;script&gt;" in text
            assert all(a.get("src", "").startswith("/static/") for a in document.all("script"))
            assert document.all("img") == []
            assert all(not a.get("href", "").startswith("javascript:") for a in document.all("a"))
            assert all(not name.startswith("on") for _, a in document.elements for name in a)


# --- when the store is away --------------------------------------------------------------------------------------------


async def test_page_says_when_the_database_does_not_answer(opened, monkeypatch):
    found, browser = opened

    async def away(*_args, **_named):
        raise StoreError

    for name in ("incidents", "approvals", "counts", "conservation"):
        monkeypatch.setattr(found.store, name, away)
    response, text = await browser.get("/")
    assert response.status == 503
    assert "The database does not answer" in text


async def test_page_shows_an_unbalanced_equation_as_such(opened, monkeypatch):
    found, browser = opened
    sums = await found.store.conservation()

    async def broken():
        return type(sums)(5, 1, 1, 1, 0, {"duplicate": 1}, balanced=False)

    monkeypatch.setattr(found.store, "conservation", broken)
    for path in ("/", "/conservation"):
        _, text = await browser.get(path)
        assert "balanced: no" in text
        assert "equation broken" in text
