"""Flags, caches, pipelines and probes on real servers: nginx as store and origin, Varnish, a patient, toxiproxy."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from backends.nginx_server import Nginx
from backends.toxiproxy_server import ToxicProxy
from backends.varnish_server import Varnish

from actions.http_cdn import PurgeCdn
from actions.http_flags import ToggleFlag
from actions.http_pipeline import RollbackDeploy
from actions.http_probe import HealthProbe
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Executor,
    PermanentError,
    SystemClock,
    Target,
)
from oncall_agent.testing import FakePatient, context_for

clock = SystemClock()
TARGET = Target("shop", "http_app")
STORE = """
server {
  listen 127.0.0.1:{port};
  root FOLDER;
  location /flags/ { dav_methods PUT; client_body_in_single_buffer on; }
}
"""
ORIGIN = """
server { listen 127.0.0.1:{port}; root FOLDER; add_header xkey $tag; add_header Cache-Control public; }
map $uri $tag { ~css css; default other; }
"""


def attempt(
    kind: type[Executor],
    params: dict[str, Any],
    *,
    seconds: float = 15.0,
    key: str = "",
    dry_run: bool = False,
    url: str = "",
) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate(params),
        Target("shop", "http_app", address={"url": url} if url else {}),
        clock=clock,
        seconds=seconds,
        key=key,
        dry_run=dry_run,
    )


# --- flags -------------------------------------------------------------------------------------------------------


@pytest.fixture
def flag_file(nginx: Nginx) -> Path:
    """One flag of a store that is a real nginx with WebDAV."""
    path = nginx.folder / "www" / "flags" / "new-checkout"
    path.parent.mkdir(parents=True)
    path.write_text('{"on": true}')
    nginx.start(STORE.replace("FOLDER", str(nginx.folder / "www")))
    return path


def flags(url: str, **more: Any) -> dict[str, Any]:
    flag = {
        "read": {"url": f"{url}/flags/new-checkout", "value": "on"},
        "write": {"method": "PUT", "url": f"{url}/flags/new-checkout", "body": {"on": "{value}"}},
        **more,
    }
    return {"timeout_seconds": 1.0, "flags": {"new-checkout": flag}}


OFF = {"flag": "new-checkout", "value": False}


async def test_a_flag_is_set_read_back_and_put_back(nginx: Nginx, flag_file: Path) -> None:
    async with ToggleFlag(flags(nginx.url)) as executor, ToggleFlag(flags(nginx.url)) as other:
        assert (await executor.execute(attempt(ToggleFlag, OFF, dry_run=True))).planned
        assert json.loads(flag_file.read_text()) == {"on": True}
        ctx = attempt(ToggleFlag, OFF)
        assert (await executor.precheck(ctx)).facts["before"] is True
        receipt = await executor.execute(ctx)
        written_at = flag_file.stat().st_mtime_ns
        await executor.execute(ctx)
        await other.execute(ctx)
        assert written_at == flag_file.stat().st_mtime_ns
        assert (await executor.verify(ctx, receipt)).ok
        assert json.loads(flag_file.read_text()) == {"on": False}
        refused = await executor.precheck(ctx)
        assert (refused.ok, refused.reason) == (False, "the flag has that value")
        for _ in range(2):
            assert (await other.rollback(ctx, receipt)).ok
    assert json.loads(flag_file.read_text()) == {"on": True}


async def test_a_flag_that_does_not_end_the_symptom_is_no_success(nginx: Nginx, flag_file: Path) -> None:
    symptom = {"url": f"{nginx.url}/no-such-page", "within_seconds": 0.2, "interval_seconds": 0.05}
    async with ToggleFlag(flags(nginx.url, symptom=symptom)) as executor:
        ctx = attempt(ToggleFlag, OFF)
        check = await executor.verify(ctx, await executor.execute(ctx))
    assert (check.ok, check.reason) == (False, "the server answered 404")


TOXICS: list[tuple[str, dict[str, int]]] = [
    ("timeout", {"timeout": 0}),
    ("reset_peer", {"timeout": 0}),
    ("limit_data", {"bytes": 20}),
    ("latency", {"latency": 5_000}),
]


@pytest.mark.parametrize(("toxic", "attributes"), TOXICS, ids=[name for name, _ in TOXICS])
async def test_a_spoiled_connection_ends_by_name_and_in_time_and_heals_by_itself(
    toxic: str,
    attributes: dict[str, int],
    nginx: Nginx,
    flag_file: Path,
    toxic_proxy: Callable[[str], ToxicProxy],
) -> None:
    proxy = toxic_proxy(f"127.0.0.1:{nginx.port}")
    settings = {**flags(f"http://{proxy.address}"), "timeout_seconds": 0.3}
    async with ToggleFlag(settings) as executor:
        proxy.add(toxic, **attributes)
        began = clock.monotonic()
        for step in (executor.ping, executor.diagnose, executor.precheck, executor.execute):
            with pytest.raises(ActionError):
                await step(attempt(ToggleFlag, OFF, seconds=1.0))
        assert clock.monotonic() - began < 4.0
        proxy.heal()
        ctx = attempt(ToggleFlag, OFF)
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok


async def test_a_slow_server_is_borne_and_an_absent_one_refused(
    nginx: Nginx, flag_file: Path, toxic_proxy: Callable[[str], ToxicProxy]
) -> None:
    proxy = toxic_proxy(f"127.0.0.1:{nginx.port}")
    async with ToggleFlag(flags(f"http://{proxy.address}")) as executor:
        proxy.add("latency", latency=100)
        assert (await executor.precheck(attempt(ToggleFlag, OFF))).ok
        proxy.refuse()
        with pytest.raises(ActionError, match="can't connect"):
            await executor.execute(attempt(ToggleFlag, OFF))
    assert json.loads(flag_file.read_text()) == {"on": True}


# --- a cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def origin(nginx: Nginx, varnish: Varnish) -> Path:
    """The files of an origin with a real Varnish in front."""
    folder = nginx.folder / "origin"
    folder.mkdir(parents=True)
    for name in ("a.css", "b.css", "c.js"):
        (folder / name).write_text("old")
    nginx.start(ORIGIN.replace("FOLDER", str(folder)))
    varnish.start(nginx.port)
    return folder


def cache(nginx: Nginx, varnish: Varnish, **more: Any) -> dict[str, Any]:
    declared = {
        "purge_key": {"method": "PURGE", "url": f"{varnish.url}/{{key}}"},
        "purge_tag": {"method": "PURGE", "url": f"{varnish.url}/", "headers": {"X-Tag": "{tag}"}},
        "url": varnish.url,
        "origin": nginx.url,
        "status_header": "X-Cache",
        **more,
    }
    return {"caches": {"edge": declared}}


KEY = {"cache": "edge", "keys": ["/a.css"], "within_seconds": 1.0}


async def page(url: str) -> tuple[str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text(), answer.headers.get("X-Cache", "")


async def outdated(varnish: Varnish, origin: Path) -> None:
    """Have the cache keep what the origin no longer has."""
    for path in sorted(origin.iterdir()):
        assert await page(f"{varnish.url}/{path.name}") == ("old", "MISS")
        path.write_text("new")


async def test_a_purged_key_is_missed_once_and_is_what_the_origin_has(
    nginx: Nginx, varnish: Varnish, origin: Path
) -> None:
    await outdated(varnish, origin)
    async with PurgeCdn(cache(nginx, varnish)) as executor:
        ctx = attempt(PurgeCdn, KEY)
        assert (await executor.diagnose(ctx))["/a.css"] == "HIT"
        assert (await executor.precheck(ctx)).ok
        assert (await executor.execute(attempt(PurgeCdn, KEY, dry_run=True))).planned
        receipt = await executor.execute(ctx)
        assert receipt.facts["first"] == {"/a.css": "MISS"}
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
    assert await page(f"{varnish.url}/a.css") == ("new", "HIT")
    assert await page(f"{varnish.url}/b.css") == ("old", "HIT")


async def test_a_purged_tag_takes_all_that_carry_it_and_nothing_else(
    nginx: Nginx, varnish: Varnish, origin: Path
) -> None:
    await outdated(varnish, origin)
    params = {"cache": "edge", "tags": ["css"], "samples": ["/b.css"], "within_seconds": 1.0}
    async with PurgeCdn(cache(nginx, varnish)) as executor:
        ctx = attempt(PurgeCdn, params)
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
    assert await page(f"{varnish.url}/a.css") == ("new", "MISS")
    assert await page(f"{varnish.url}/c.js") == ("old", "HIT")


async def test_a_purge_is_not_repeated_when_the_cache_is_fresh(
    nginx: Nginx, varnish: Varnish, origin: Path
) -> None:
    await page(f"{varnish.url}/a.css")
    async with PurgeCdn(cache(nginx, varnish)) as executor:
        receipt = await executor.execute(attempt(PurgeCdn, KEY))
        assert receipt.facts["first"] == {"/a.css": "HIT"}


async def test_a_purge_that_is_not_permitted_is_named_and_verify_sees_the_old_object(
    nginx: Nginx, varnish: Varnish, origin: Path
) -> None:
    await outdated(varnish, origin)
    locked = {"method": "PURGE", "url": f"{varnish.url}/locked/{{key}}"}
    async with PurgeCdn(cache(nginx, varnish, purge_key=locked)) as executor:
        ctx = attempt(PurgeCdn, KEY)
        with pytest.raises(PermanentError, match="answered 403"):
            await executor.execute(ctx)
        check = await executor.verify(ctx, await executor.execute(attempt(PurgeCdn, KEY, dry_run=True)))
    assert (check.ok, check.reason) == (False, "/a.css is not what the origin has")


# --- a pipeline --------------------------------------------------------------------------------------------------


@dataclass
class Patient:
    url: str
    control_url: str


@pytest.fixture
async def patient() -> AsyncIterator[Patient]:
    """A real app that is deployed over HTTP, and whose version 1.1.0 is bad."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "oncall_agent.demo.patient", "--name", "checkout")
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe)
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
        yield Patient(ready["url"], ready["control_url"])
    finally:
        process.terminate()
        await process.communicate()


def pipeline(patient: Patient) -> dict[str, Any]:
    control = patient.control_url
    status = f"{patient.url}/api/v1/status"
    declared = {
        "read": {"url": f"{control}/deploy", "value": "version"},
        "previous": "previous",
        "deployed_at": "deployed_at",
        "last_key": "key",
        "artifacts": {"url": f"{control}/deploy", "value": "[version, previous]"},
        "deploy": {"url": f"{control}/deploy", "body": {"version": "{version}"}},
        "live": {"url": status, "value": "version"},
        "symptom": {
            "url": status,
            "assertion": "error_rate < `0.05`",
            "hold_seconds": 0.3,
            "interval_seconds": 0.05,
        },
    }
    return {"timeout_seconds": 10.0, "pipelines": {"shop": declared}}


async def post(url: str, **body: Any) -> None:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()


async def test_rolling_back_through_the_pipeline_heals_and_is_undone(patient: Patient) -> None:
    await post(f"{patient.control_url}/break", fault="db_timeouts")
    params = {"pipeline": "shop"}
    async with RollbackDeploy(pipeline(patient)) as executor, RollbackDeploy(pipeline(patient)) as other:
        ctx = attempt(RollbackDeploy, params, seconds=30.0)
        check = await executor.precheck(ctx)
        assert (check.ok, check.facts["version"], check.facts["wanted"]) == (True, "1.1.0", "1.0.0"), check
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        repeated = await other.execute(ctx)
        assert (repeated.facts["version"], repeated.facts["wanted"]) == ("1.1.0", "1.0.0")
        for _ in range(2):
            assert (await other.rollback(ctx, receipt)).ok
        assert (await executor.diagnose(ctx))["version"] == "1.1.0"


async def test_a_pipeline_with_nothing_to_go_back_to_refuses(patient: Patient) -> None:
    async with RollbackDeploy(pipeline(patient)) as executor:
        check = await executor.precheck(attempt(RollbackDeploy, {"pipeline": "shop"}))
        missing = await executor.precheck(attempt(RollbackDeploy, {"pipeline": "shop", "version": "0.1"}))
    assert (check.ok, check.reason) == (False, "there is no other version to go back to")
    assert (missing.ok, missing.reason) == (False, "there is no artifact of version 0.1")


# --- a probe -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "quorum", "ok", "asked"), [(3, 2, True, 3), (3, 3, False, 1), (2, 1, True, 2)]
)
async def test_a_probe_needs_its_quorum_and_asks_no_more_than_it_must(
    samples: int, quorum: int, ok: bool, asked: int
) -> None:
    async with FakePatient() as patient, HealthProbe({}) as executor:
        params = {
            "url": "/api/v1/status",
            "samples": samples,
            "quorum": quorum,
            "interval_seconds": 0.01,
            "assertion": "error_rate < `0.5`",
        }
        ctx = attempt(HealthProbe, params, url=patient.url)
        assert (await executor.precheck(ctx)).ok
        patient.error_rate = 0.9
        receipt = None
        holds = executor.holds

        async def once_sick(*arguments: Any) -> Check:
            answer = await holds(*arguments)
            patient.error_rate = 0.0
            return answer

        executor.holds = once_sick  # type: ignore[method-assign]
        receipt = await executor.execute(ctx)
        good, bad = receipt.facts["good"], receipt.facts["bad"]
    assert (good >= quorum, good + bad) == (ok, asked)
