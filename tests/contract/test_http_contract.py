"""The declared HTTP actions through the contract test, and the refusals that need no real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from actions.http_cdn import PurgeCdn
from actions.http_flags import ToggleFlag
from actions.http_nginx import parsed, rewritten
from actions.http_pipeline import RollbackDeploy
from actions.http_pools import Share
from actions.http_probe import HealthProbe
from actions.http_settings import HttpSettings
from actions.http_system import HttpSystem
from actions.http_traffic import DrainBackend, ShiftTraffic
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Receipt,
    SystemContext,
    Target,
    TransientError,
)
from oncall_agent.testing import (
    FakeClock,
    FakeEdge,
    Fault,
    FaultyProxy,
    Harness,
    RecordingLog,
    Upstream,
    check_executor,
    check_outages,
    context_for,
)

SECRET = "s3cr3t-Zx81"
TARGET = Target("shop", "http_app")
FLAG = {"flag": "new-checkout", "value": False}
MEMBER = {"pool": "shop", "member": "blue"}
KEYS = {"cache": "edge", "keys": ["/a.css"]}
PIPELINE = {"pipeline": "shop"}
PROBE = {"url": "/status", "interval_seconds": 0.01}


def settings_at(url: str) -> dict[str, Any]:
    secrets = {"secret_headers": {"Authorization": "env:TEST_EDGE"}}
    return {
        "timeout_seconds": 2.0,
        "flags": {
            "new-checkout": {
                "read": {"url": f"{url}/flags/new-checkout", "value": "value"},
                "write": {
                    "method": "PUT",
                    "url": f"{url}/flags/new-checkout",
                    "body": {"value": "{value}"},
                },
                **secrets,
            }
        },
        "pools": {
            "shop": {
                "provider": "endpoints",
                "read": {"url": f"{url}/pool", "value": "weights"},
                "healthy": {"url": f"{url}/pool", "value": "healthy"},
                "write": {"method": "PUT", "url": f"{url}/pool/{{member}}", "body": {"weight": "{weight}"}},
                "max_weight": 10,
                **secrets,
            }
        },
        "caches": {
            "edge": {
                "purge_key": {"method": "PURGE", "url": f"{url}/purge/{{key}}"},
                "purge_tag": {"url": f"{url}/purge-tag/{{tag}}"},
                "url": f"{url}/cdn",
                "origin": f"{url}/origin",
                "max_count": 2,
                "headroom": {"url": f"{url}/status", "assertion": "room"},
                **secrets,
            }
        },
        "pipelines": {
            "shop": {
                "read": {"url": f"{url}/pipeline", "value": "version"},
                "previous": "previous",
                "deployed_at": "at",
                "last_key": "key",
                "artifacts": {"url": f"{url}/pipeline", "value": "artifacts"},
                "frozen": {"url": f"{url}/pipeline", "value": "frozen"},
                "deploy": {"url": f"{url}/pipeline", "body": {"version": "{version}"}},
                "window_seconds": 600.0,
                **secrets,
            }
        },
    }


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def edge(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeEdge]:
    monkeypatch.setenv("TEST_EDGE", f"Bearer {SECRET}")
    async with FakeEdge(clock, token=SECRET) as edge:
        yield edge


def harness(edge: FakeEdge, clock: FakeClock, kind: type[Executor], params: dict[str, Any]) -> Harness:
    async def make_sick() -> None:
        edge.flags["new-checkout"], edge.weights["blue"] = True, 1
        edge.cached = {"/a.css": "old", "/b.css": "old"}
        edge.deploy("1.0.0", "")
        edge.deploy("1.1.0", "")

    async def effects() -> int:
        return edge.effects

    async def snapshot() -> object:
        return (edge.flags["new-checkout"], dict(edge.weights), edge.pipeline["version"], dict(edge.cached))

    async def hang() -> None:
        edge.hangs = True

    async def release() -> None:
        edge.hangs = False

    return Harness(
        factory=lambda: kind(settings_at(edge.url)),
        target=Target("shop", "http_app", address={"url": edge.url}),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params,
        clock=clock,
    )


ACTIONS = [
    (ToggleFlag, FLAG),
    (ShiftTraffic, {**MEMBER, "weight": 5}),
    (DrainBackend, MEMBER),
    (PurgeCdn, KEYS),
    (RollbackDeploy, PIPELINE),
]


@pytest.mark.parametrize(("kind", "params"), ACTIONS)
async def test_executor_keeps_the_contract(
    kind: type[Executor], params: dict[str, Any], edge: FakeEdge, clock: FakeClock
) -> None:
    scorecard = await check_executor(harness(edge, clock, kind, params))
    assert not scorecard.failures, str(scorecard)


async def test_the_probe_keeps_the_contract(edge: FakeEdge, clock: FakeClock) -> None:
    edge.token = ""
    # It mends nothing: where the contract test wants a mended world, it finds one that was never ill.
    turns = iter([False, False, False, True, False, True])

    async def make_sick() -> None:
        edge.broken = next(turns)

    world = replace(harness(edge, clock, HealthProbe, PROBE), make_sick=make_sick)
    scorecard = await check_executor(world)
    assert not scorecard.failures, str(scorecard)


def attempt(
    kind: type[Executor], clock: FakeClock, params: dict[str, Any], *, target: Target = TARGET
) -> ActionContext:
    return context_for(kind.spec.params.model_validate(params), target, clock=clock)


REFUSALS: list[tuple[type[Executor], dict[str, Any], dict[str, Any], str]] = [
    (ToggleFlag, {"flag": "other", "value": True}, {}, "no flag is named"),
    (ToggleFlag, {**FLAG, "value": "maybe"}, {}, "may not have that value"),
    (ToggleFlag, {**FLAG, "value": True}, {}, "has that value"),
    (DrainBackend, {**MEMBER, "pool": "other"}, {}, "no pool is named"),
    (DrainBackend, {**MEMBER, "member": "red"}, {}, "has no member"),
    (DrainBackend, MEMBER, {"healthy": ["blue"]}, "only 0 other members are healthy"),
    (DrainBackend, MEMBER, {"weights": {"blue": 1, "green": 0}}, "only 0 other members are healthy"),
    (DrainBackend, MEMBER, {"weights": {"blue": 0, "green": 1}}, "has that weight"),
    (ShiftTraffic, {**MEMBER, "weight": 5}, {"healthy": ["green"]}, "may not get more traffic"),
    (ShiftTraffic, {**MEMBER, "weight": 11}, {}, "go up to 10"),
    (ShiftTraffic, {**MEMBER, "weight": 1}, {}, "has that weight"),
    (PurgeCdn, {**KEYS, "cache": "other"}, {}, "no cache is named"),
    (PurgeCdn, {**KEYS, "keys": ["/a", "/b", "/c"]}, {}, "3 are more than 2"),
    (PurgeCdn, KEYS, {"has_room": False}, "no headroom"),
    (RollbackDeploy, {"pipeline": "other"}, {}, "no pipeline is named"),
    (RollbackDeploy, {**PIPELINE, "version": "1.1.0"}, {}, "that version is deployed"),
    (RollbackDeploy, {**PIPELINE, "version": "0.1.0"}, {}, "no artifact"),
    (RollbackDeploy, PIPELINE, {"is_frozen": True}, "frozen"),
    (RollbackDeploy, PIPELINE, {"pipeline": {"version": "1.1.0", "previous": "1.0.0", "at": 0.0}}, "s old"),
    (RollbackDeploy, PIPELINE, {"pipeline": {"version": "1.1.0", "at": 2e9}}, "no other version"),
    (RollbackDeploy, PIPELINE, {"pipeline": {"version": "1.1.0", "at": "yesterday"}}, "does not say when"),
    (HealthProbe, {"url": "http://elsewhere.example/"}, {}, "not on the list"),
]


@pytest.mark.parametrize(("kind", "params", "world", "reason"), REFUSALS)
async def test_precheck_refuses(
    kind: type[Executor],
    params: dict[str, Any],
    world: dict[str, Any],
    reason: str,
    edge: FakeEdge,
    clock: FakeClock,
) -> None:
    for name, value in world.items():
        setattr(edge, name, value)
    async with kind(settings_at(edge.url)) as executor:
        check = await executor.precheck(attempt(kind, clock, params))
    assert (check.ok, reason in check.reason) == (False, True), check
    assert edge.effects == 0


@pytest.mark.parametrize(("kind", "params"), ACTIONS)
async def test_a_protected_target_is_refused(
    kind: type[Executor], params: dict[str, Any], edge: FakeEdge, clock: FakeClock
) -> None:
    async with kind(settings_at(edge.url)) as executor:
        target = Target("shop", "http_app", protected=True)
        check = await executor.precheck(attempt(kind, clock, params, target=target))
    assert (check.ok, check.reason) == (False, "the target is protected")


async def test_a_member_that_fell_ill_after_the_precheck_is_not_drained_away(
    edge: FakeEdge, clock: FakeClock
) -> None:
    async with DrainBackend(settings_at(edge.url)) as executor:
        ctx = attempt(DrainBackend, clock, MEMBER)
        assert (await executor.precheck(ctx)).ok
        edge.healthy = ["blue"]
        with pytest.raises(PermanentError, match="only 0 other members"):
            await executor.execute(ctx)
    assert edge.effects == 0


@pytest.mark.parametrize(("kind", "params"), ACTIONS)
async def test_a_wrong_token_is_named(
    kind: type[Executor],
    params: dict[str, Any],
    edge: FakeEdge,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_EDGE", "Bearer something-else")
    async with kind(settings_at(edge.url)) as executor:
        with pytest.raises(PermanentError, match="answered 401"):
            await executor.execute(attempt(kind, clock, params))


@pytest.mark.parametrize(("kind", "params"), ACTIONS)
async def test_the_server_may_go_away_at_any_time(
    kind: type[Executor], params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_EDGE", f"Bearer {SECRET}")
    facts = {"before": {"weight": 3, "drained": False}, "version": "0.9.0", "wanted": "1.0.0", "first": {}}
    receipt = Receipt(kind.spec.id, 0.0, {**facts, "before": False} if kind is ToggleFlag else facts)
    typed = kind.spec.params.model_validate(params)
    async with (
        FakeEdge(token=SECRET) as edge,
        FaultyProxy(Upstream(port=port_of(edge.url))) as proxy,
        kind(settings_at(f"http://127.0.0.1:{proxy.port}")) as executor,
    ):
        await check_outages(
            executor,
            proxy,
            lambda seconds: context_for(typed, TARGET, clock=edge.clock, seconds=seconds),
            receipt=receipt,
            deadline_seconds=0.4,
            secret=SECRET,
        )


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


# --- what is declared ------------------------------------------------------------------------------------------


async def test_tags_are_purged_and_seen_by_their_samples(edge: FakeEdge, clock: FakeClock) -> None:
    async with PurgeCdn(settings_at(edge.url)) as executor:
        ctx = attempt(PurgeCdn, clock, {"cache": "edge", "tags": ["css"], "samples": ["/b.css"]})
        assert (await executor.precheck(ctx)).ok
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert edge.cached["/b.css"] == "new"


async def test_verify_sees_a_cache_that_was_not_purged(edge: FakeEdge, clock: FakeClock) -> None:
    async with PurgeCdn(settings_at(edge.url)) as executor:
        ctx = attempt(PurgeCdn, clock, {**KEYS, "within_seconds": 1.0})
        check = await executor.verify(ctx, Receipt("http.purge_cdn", 0.0, {"first": {}}))
    assert (check.ok, "not what the origin has" in check.reason) == (False, True), check


@pytest.mark.parametrize(
    "params",
    [
        {"cache": "edge"},
        {"cache": "edge", "keys": ["/a"], "tags": ["b"]},
        {"cache": "edge", "keys": ["/*"]},
        {"cache": "edge", "keys": ["/a?all"]},
        {"cache": "edge", "tags": ["css"]},
        {"cache": "edge", "tags": ["ALL"], "samples": ["/a"]},
        {"cache": "edge", "tags": ["*"], "samples": ["/a"]},
    ],
    ids=["nothing", "both", "pattern", "query", "no samples", "all", "star"],
)
def test_a_purge_of_everything_can_not_be_asked_for(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PurgeCdn.spec.params.model_validate(params)


@pytest.mark.parametrize(
    "group",
    [
        {"flags": {"x": {"read": {"url": "http://a/", "value": "v"}, "write": {"url": "http://a/{flag}"}}}},
        {"flags": {"x": {"read": {"url": "http://a/", "value": "v"}}}},
        {"pools": {"x": {"provider": "nginx", "include": "relative.conf"}}},
        {"pools": {"x": {"provider": "haproxy", "socket": "stats.sock", "backend": "app"}}},
        {"pools": {"x": {"provider": "vendor"}}},
        {"caches": {"x": {"url": "http://a/", "purge_key": {"url": "http://a/{tag}"}}}},
        {
            "pipelines": {
                "x": {
                    "read": {"url": "http://a/", "value": "v"},
                    "previous": "p",
                    "deployed_at": "at",
                    "artifacts": {"url": "http://a/", "value": "list"},
                    "deploy": {"url": "http://a/{version}"},
                }
            }
        },
    ],
    ids=["variable", "write", "relative", "socket", "provider", "tag", "last_key"],
)
def test_settings_are_refused(group: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HttpSettings.model_validate(group)


async def test_a_deploy_without_an_answer_is_not_repeated_when_the_pipeline_can_not_tell(
    edge: FakeEdge, clock: FakeClock
) -> None:
    settings = settings_at(edge.url)
    pipeline = settings["pipelines"]["shop"]
    del pipeline["previous"], pipeline["last_key"]
    settings["timeout_seconds"] = 0.2
    async with FaultyProxy(Upstream(port=port_of(edge.url))) as proxy:
        pipeline["deploy"]["url"] = f"http://127.0.0.1:{proxy.port}/pipeline"
        await proxy.become(Fault.BLACK_HOLE)
        async with RollbackDeploy(settings) as executor:
            with pytest.raises(PermanentError, match="may have deployed"):
                await executor.execute(attempt(RollbackDeploy, clock, {**PIPELINE, "version": "1.0.0"}))


NGINX = """# the pool of the shop
server 10.0.0.1:80 weight=3 max_fails=2; # blue
  server 10.0.0.2:80;
keepalive 8;
"""


@pytest.mark.parametrize(
    ("share", "line"),
    [
        (Share(5, drained=False), "server 10.0.0.1:80 max_fails=2 weight=5; # blue"),
        (Share(3, drained=True), "server 10.0.0.1:80 max_fails=2 weight=3 down; # blue"),
    ],
)
def test_only_one_line_of_the_include_file_changes(share: Share, line: str) -> None:
    after = rewritten(NGINX, "blue", share).splitlines()
    before = NGINX.splitlines()
    assert after == [before[0], line, *before[2:]]
    assert parsed("\n".join(after))["blue"].share == share


@pytest.mark.parametrize("text", ["server a; # x\nserver b; # x\n", "server a;\nserver a;\n"])
def test_an_ambiguous_include_file_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="twice"):
        parsed(text)


async def test_without_a_pool_there_is_nobody_to_inspect(clock: FakeClock) -> None:
    ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 5)
    async with HttpSystem(settings_at("http://127.0.0.1:1")) as system:
        assert await system.inspect(ctx, ["http.toggle_flag"]) is None


async def test_an_absent_haproxy_is_transient(clock: FakeClock, tmp_path: Path) -> None:
    pools = {"app": {"provider": "haproxy", "socket": str(tmp_path / "none.sock"), "backend": "app"}}
    async with DrainBackend({"pools": pools}) as executor:
        with pytest.raises(TransientError, match="can't be reached"):
            await executor.precheck(attempt(DrainBackend, clock, {"pool": "app", "member": "blue"}))


def test_grants_name_the_requests_of_the_chosen_actions_only() -> None:
    settings = settings_at("https://edge.example")
    settings["pools"]["app"] = {"provider": "haproxy", "socket": "/run/h.sock", "backend": "app"}
    settings["pools"]["web"] = {"provider": "nginx", "include": "/etc/nginx/pools/web.conf"}
    system = HttpSystem(settings)
    flags = system.grants(["http.toggle_flag"]).text
    assert flags == (
        "# requests\nGET https://edge.example/flags/new-checkout\nPUT https://edge.example/flags/new-checkout\n"
    )
    traffic = system.grants(["http.drain_backend"]).text
    assert "stats socket /run/h.sock mode 600 user oncall-agent level admin" in traffic
    assert "NOPASSWD: /usr/sbin/nginx -t, /usr/sbin/nginx -s reload" in traffic
    assert "flags" not in traffic
