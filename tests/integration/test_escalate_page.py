"""Paging through the real library Apprise to a real HTTP receiver, and what happens when that fails."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actions.escalate import Page
from actions.page_text import MAX_BODY
from oncall_agent.contract import ActionContext, PermanentError, Receipt, Target, TransientError
from oncall_agent.testing import FakeClock, RecordingLog, context_for
from oncall_agent.testing.harness import run_in_thread

pytest.importorskip("apprise")
# The library itself still imports a module that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
INCIDENT = {
    "id": "0199",
    "title": "checkout is down",
    "severity": "critical",
    "class": "crash",
    "timeline": [{"at": 1.0, "name": "alert.accepted"}, {"at": 2.0, "name": "attempt.finished"}],
    "health_before": 12.5,
}


class Receiver:
    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.status = 200
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        self.pages.append(await request.json())
        return web.Response(status=self.status)


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.port = runner.addresses[0][1]
    monkeypatch.setenv("PAGER", f"json://user:s3cr3t@127.0.0.1:{receiver.port}/page")
    yield receiver
    await runner.cleanup()


def attempt(
    *, key: str = "", log: RecordingLog | None = None, incident: Any = INCIDENT, note: str = ""
) -> ActionContext:
    return context_for(
        Page.spec.params(note=note),
        Target("checkout", "http_app"),
        clock=FakeClock(),
        log=log,
        key=key,
        incident=incident,
        run_blocking=run_in_thread,
    )


def page(tmp_path: Path, *urls: str) -> Page:
    return Page({"urls": urls, "file": str(tmp_path / "pages.jsonl")})


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "pages.jsonl").read_text().splitlines()]


async def test_a_page_arrives_once_with_everything_collected(receiver: Receiver, tmp_path: Path) -> None:
    ctx = attempt(note="look at the database first")
    receipt = await page(tmp_path, "env:PAGER").execute(ctx)
    await page(tmp_path, "env:PAGER").execute(ctx)
    [sent] = receiver.pages
    assert sent["title"] == "[CRITICAL] checkout is down on checkout"
    assert sent["message"].startswith("look at the database first\n")
    for part in ("id: 0199", "attempt.finished", "health_before: 12.5"):
        assert part in sent["message"]
    assert receipt.facts["delivered"] == 1
    assert (await page(tmp_path, "env:PAGER").verify(ctx, receipt)).ok


async def test_a_page_that_no_channel_takes_is_kept_and_said_to_be_transient(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.status = 500
    executor, ctx = page(tmp_path, "env:PAGER"), attempt()
    with pytest.raises(TransientError) as caught:
        await executor.execute(ctx)
    assert "s3cr3t" not in f"{caught.value!r} {caught.value.receipt_facts}"
    assert [line["state"] for line in lines(tmp_path)] == ["kept"]
    assert not (await executor.verify(ctx, Receipt("escalate.page", 0.0, {}, partial=True))).ok
    receiver.status = 200
    await executor.execute(ctx)
    assert [line["state"] for line in lines(tmp_path)] == ["kept", "sent"]


async def test_without_a_channel_the_page_goes_to_the_log_and_the_file(tmp_path: Path) -> None:
    log = RecordingLog()
    executor, ctx = page(tmp_path), attempt(log=log)
    receipt = await executor.execute(ctx)
    assert log.names == ["page.written"]
    assert lines(tmp_path)[0]["title"] == "[CRITICAL] checkout is down on checkout"
    assert (await executor.verify(ctx, receipt)).ok


async def test_a_missing_secret_keeps_the_page_and_is_permanent(tmp_path: Path) -> None:
    executor, ctx = page(tmp_path, "env:NO_SUCH_PAGER"), attempt()
    with pytest.raises(PermanentError, match="env:NO_SUCH_PAGER"):
        await executor.execute(ctx)
    assert [line["state"] for line in lines(tmp_path)] == ["kept"]
    assert not (await executor.ping(ctx)).ok


async def test_a_full_disk_does_not_stop_the_page(receiver: Receiver) -> None:
    executor = Page({"urls": ["env:PAGER"], "file": "/proc/nonexistent/pages.jsonl"})
    receipt = await executor.execute(attempt())
    assert (receipt.facts["delivered"], len(receiver.pages)) == (1, 1)


async def test_the_text_is_bounded_and_without_control_characters(receiver: Receiver, tmp_path: Path) -> None:
    wild = {"title": "\x1b[31mred\x00" + "t" * 5_000, "labels": {f"l{n}": "v" * 1_000 for n in range(500)}}
    deep: Any = "end"
    for _ in range(100):
        deep = {"deeper": deep}
    await page(tmp_path, "env:PAGER").execute(attempt(incident={**wild, "deep": deep}))
    [sent] = receiver.pages
    assert len(sent["message"]) <= MAX_BODY
    assert not {"\x1b", "\x00"} & set(sent["title"] + sent["message"])


async def test_the_page_file_is_bounded(tmp_path: Path) -> None:
    executor = Page({"file": str(tmp_path / "pages.jsonl"), "max_file_bytes": 65_536})
    for number in range(300):
        await executor.execute(attempt(key=f"page-{number}"))
    sizes = {name: (tmp_path / name).stat().st_size for name in os.listdir(tmp_path)}  # noqa: PTH208 - names
    assert set(sizes) == {"pages.jsonl", "pages.jsonl.1"}
    assert max(sizes.values()) <= 65_536
