"""The engine as a system: its drills healed by the real actions, and the least privilege behind a real proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import docker
import pytest
from backends.nginx_server import Nginx
from docker.models.containers import Container

from actions.docker import RestartContainer, StartOrUnpause
from actions.docker_drills import DRILLS, FullDisk
from actions.docker_image import RecreateWithImage
from actions.docker_isolate import IsolateOrStop
from actions.docker_limits import UpdateLimits
from actions.docker_prune import Prune
from actions.docker_rules import NEEDS
from actions.docker_system import DockerSystem
from oncall_agent.contract import (
    Drill,
    Executor,
    PermanentError,
    SystemClock,
    SystemContext,
    Target,
    TransientError,
)
from oncall_agent.testing import Fault, FaultyProxy, RecordingLog, Upstream, context_for
from oncall_agent.testing.harness import run_in_thread

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KINDS: dict[str, type[Executor]] = {
    kind.spec.id: kind
    for kind in (RestartContainer, StartOrUnpause, UpdateLimits, RecreateWithImage, IsolateOrStop, Prune)
}
Run = Callable[..., Container]


def system_context(seconds: float = 60.0) -> SystemContext:
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds, run_in_thread)


async def heal(drill: Drill, settings: dict[str, Any]) -> None:
    """What the validation suite does with a drill: well, sick, acted on, well, undone, gone."""
    kind, ctx = KINDS[drill.spec.action], system_context()
    try:
        trial = await drill.prepare(ctx)
        assert (await drill.symptom(ctx, trial)).ok
        await drill.inject(ctx, trial)
        assert not (await drill.symptom(ctx, trial)).ok
        attempt = context_for(
            kind.spec.params.model_validate(dict(trial.params)),
            trial.target,
            clock=SystemClock(),
            seconds=60,
            run_blocking=run_in_thread,
        )
        async with kind(settings) as executor:
            check = await executor.precheck(attempt)
            assert check.ok, check
            receipt = await executor.execute(attempt)
            verified = await executor.verify(attempt, receipt)
            assert verified.ok, verified
            assert (await drill.symptom(ctx, trial)).ok
            if kind.spec.reversible:
                undone = await executor.rollback(attempt, receipt)
                assert undone.ok, undone
    finally:
        await drill.clean_up(system_context())
        await drill.clean_up(system_context())


@pytest.mark.parametrize(
    ("kind", "sandbox", "settings", "reason"),
    [
        (DRILLS[0], {}, {}, "validation.sandboxes.docker.image"),
        (DRILLS[0], {"image": "oncall-test/none:9"}, {}, "not on the host"),
        (FullDisk, {"image": "oncall-test/base:1"}, {}, "disposable_engine"),
        (FullDisk, {"image": "oncall-test/base:1", "disposable_engine": True}, {}, "min_prune_age_seconds"),
    ],
    ids=["no image", "absent image", "not disposable", "too young"],
)
async def test_drill_says_what_to_name(kind, sandbox, settings, reason, docker_host: str) -> None:
    drill = kind({"host": docker_host, **settings}, sandbox)
    with pytest.raises(PermanentError, match=reason):
        await drill.prepare(system_context())
    await drill.clean_up(system_context())


# --- inspection ----------------------------------------------------------------------------------------


async def test_inspect_names_version_clock_and_too_much_privilege(docker_host: str) -> None:
    async with DockerSystem({"host": docker_host}) as system:
        found = await system.inspect(system_context(), ["docker.restart_container"])
    assert (found.product, found.unsupported) == ("Docker Engine", "")
    assert abs(found.server_time - SystemClock().now()) < 5
    held = {privilege.name: privilege for privilege in found.privileges}
    assert held["POST container restart"].needed_by == ("docker.restart_container",)
    assert all(privilege.held for privilege in found.privileges)
    excess = {name for name, privilege in held.items() if not privilege.needed_by}
    assert {"POST container exec", "POST container create", "DELETE volume remove"} <= excess


async def test_inspecting_changes_nothing(docker_host: str, docker_client: docker.DockerClient) -> None:
    volume = docker_client.volumes.create()
    before = {image.id for image in docker_client.images.list(all=True)}
    async with DockerSystem({"host": docker_host}) as system:
        await system.inspect(system_context(), sorted(NEEDS))
    assert docker_client.volumes.get(volume.name)
    assert before <= {image.id for image in docker_client.images.list(all=True)}
    volume.remove()


async def test_inspect_ends_with_a_name_when_the_engine_is_away(docker_host: str) -> None:
    async with FaultyProxy(Upstream(path=docker_host.removeprefix("unix://"))) as proxy:
        await proxy.become(Fault.BLACK_HOLE)
        async with DockerSystem({"host": f"tcp://127.0.0.1:{proxy.port}", "timeout_seconds": 1}) as system:
            with pytest.raises(TransientError):
                await system.inspect(system_context(0.5), ["docker.restart_container"])


# --- least privilege -----------------------------------------------------------------------------------


@pytest.fixture
def behind_proxy(nginx: Nginx, docker_host: str) -> Callable[..., str]:
    """Starts nginx with exactly the generated rules; gives the engine's address behind it."""

    def start(*actions: str, engine: str = docker_host) -> str:
        grants = DockerSystem({"host": engine}).grants(actions)
        assert grants.language == "text"
        listen = "listen unix:/run/oncall-agent-docker/docker.sock;"
        assert listen in grants.text
        nginx.start(grants.text.replace(listen, "listen 127.0.0.1:{port};"))
        return f"tcp://127.0.0.1:{nginx.port}"

    return start


@pytest.mark.backend("nginx")
@pytest.mark.parametrize(
    "kind", [kind for kind in DRILLS if kind is not FullDisk], ids=lambda kind: kind.spec.id
)
async def test_drill_is_healed_with_exactly_the_rules_of_its_action_and_leaves_nothing(
    kind: type[Drill], behind_proxy, docker_host: str, docker_image: str, docker_client: docker.DockerClient
) -> None:
    host = behind_proxy(kind.spec.action)
    # The drill itself takes the other way: it does what no action may.
    drill = kind({"host": host}, {"image": docker_image, "host": docker_host})
    await heal(drill, {"host": host})
    left = docker_client.api.containers(all=True, filters={"name": drill.name})
    assert (left, docker_client.images.list(drill.name)) == ([], [])


@pytest.mark.exclusive
async def test_full_disk_is_healed_with_exactly_the_rules_of_pruning(
    behind_proxy, small_docker_host: str, small_docker_image: str, small_docker: docker.APIClient
) -> None:
    host = behind_proxy("docker.prune", engine=small_docker_host)
    sandbox = {"image": small_docker_image, "disposable_engine": True, "host": small_docker_host}
    settings = {"host": host, "min_prune_age_seconds": 0}
    await heal(FullDisk(settings, sandbox), settings)
    assert [tag for image in small_docker.images() for tag in image["RepoTags"]] == [small_docker_image]


@pytest.mark.backend("nginx")
async def test_rules_let_nothing_else_through(behind_proxy, run_container: Run, docker_image: str) -> None:
    container = run_container(["sleep", "600"], init=True)
    api = docker.APIClient(base_url=behind_proxy(*NEEDS), version="auto")
    refused: list[Callable[[], Any]] = [
        lambda: api.exec_create(container.id, ["true"]),
        lambda: api.kill(container.id),
        lambda: api.get_archive(container.id, "/etc/passwd"),
        lambda: api.remove_container(container.id, v=True),
        lambda: api.remove_image(docker_image, force=True),
        api.prune_volumes,
        api.prune_containers,
        api.volumes,
        lambda: api.create_volume("x"),
        api.nodes,
        lambda: api.commit(container.id, "x"),
        lambda: api.remove_network("bridge"),
    ]
    for call in refused:
        with pytest.raises(docker.errors.APIError) as error:
            await asyncio.to_thread(call)
        assert error.value.status_code == 403
    api.close()


@pytest.mark.backend("nginx")
@pytest.mark.parametrize(
    "path",
    [
        "/v1.41/containers/x/json/../../create",
        "/v1.41/containers/%2e%2e/volumes/x",
        "/v1.41/containers/x%2fexec/json",
        "//v1.41/containers/x/json",
        "/v1.41/containers/x/exec",
        "/v9.99x/containers/x/json",
    ],
)
async def test_a_path_that_reads_two_ways_is_refused(path: str, behind_proxy) -> None:
    port = behind_proxy(*NEEDS).rpartition(":")[2]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )
    status = await reader.readline()
    writer.close()
    assert b" 403 " in status


@pytest.mark.backend("nginx")
async def test_inspect_behind_the_rules_finds_nothing_lacking_and_nothing_too_much(behind_proxy) -> None:
    actions = ["docker.restart_container", "docker.prune"]
    async with DockerSystem({"host": behind_proxy(*actions)}) as system:
        found = await system.inspect(system_context(), actions)
    lacking = [one.name for one in found.privileges if one.needed_by and not one.held]
    too_much = [one.name for one in found.privileges if one.held and not one.needed_by]
    assert (lacking, too_much) == ([], [])


@pytest.mark.backend("nginx")
async def test_an_action_without_its_rule_is_refused_with_a_name(behind_proxy, run_container: Run) -> None:
    container = run_container(["sleep", "600"], init=True)
    host = behind_proxy("docker.start_or_unpause")
    attempt = context_for(
        RestartContainer.spec.params(),
        Target("shop", "docker_container", address={"container": container.name}),
        clock=SystemClock(),
        run_blocking=run_in_thread,
    )
    async with RestartContainer({"host": host}) as executor:
        with pytest.raises(PermanentError):
            await executor.execute(attempt)


def test_creating_containers_is_named_as_what_it_is() -> None:
    grants = DockerSystem({}).grants(["docker.recreate_with_image"])
    assert "root" in grants.how_to_apply
    assert "root on the host" not in DockerSystem({}).grants(["docker.restart_container"]).how_to_apply
