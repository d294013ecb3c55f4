"""The folders as a system: every drill healed by its action, inspection, and the generated rights, no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenes.folders import Folders, folders, put, system_context

from actions.filesystem import Purge
from actions.filesystem_drills import DRILLS
from actions.filesystem_system import FilesystemSystem
from actions.fs_cold import MoveCold
from actions.fs_deleted import ReleaseDeletedOpen
from actions.fs_logs import RotateLogs, TruncateLog
from actions.fs_warm import WarmOrRebuild
from oncall_agent.contract import Drill, PermanentError
from oncall_agent.validation.drilling import carry_out
from oncall_agent.validation.results import Verdict

pytestmark = pytest.mark.usefixtures("logrotate")
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
EXECUTORS = {
    kind.spec.id: kind
    for kind in (Purge, MoveCold, ReleaseDeletedOpen, RotateLogs, TruncateLog, WarmOrRebuild)
}
SCENE = Path(__file__).resolve().parents[1] / "scenes" / "filesystem_as_user.py"
AGENT, SERVICE = 64_001, 64_002
CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_KILL": 5, "CAP_SYS_PTRACE": 19, "CAP_LEASE": 28}
MIB = 1_048_576


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Folders]:
    with folders(tmp_path) as made:
        config = tmp_path / "rotation.conf"
        script = f"postrotate\n kill -HUP $(cat {made.root}/oncall-drill.pid)\n endscript"
        config.write_text(f"{made.root}/*.log {{\n rotate 1\n missingok\n create 0644\n {script}\n}}\n")
        config.chmod(0o644)
        tmp_path.chmod(0o755)
        made.more.update(
            rotations={"drill": {"config": str(config), "state": str(tmp_path / "state")}},
            holders={"drill": {"pid_file": str(made.root / "oncall-drill.pid")}},
            commands={"drill": {"argv": ["/usr/bin/touch", "entry"], "max_load": 100}},
        )
        yield made


def sandbox(place: Folders) -> dict[str, str]:
    named = {"rotation": "drill", "holder": "drill", "command": "drill"}
    return {"root": str(place.root), "cold_root": str(place.cold), **named}


@pytest.mark.parametrize("kind", DRILLS, ids=lambda kind: kind.spec.id)
async def test_every_drill_is_healed_by_its_action_and_leaves_nothing(
    kind: type[Drill], place: Folders
) -> None:
    drill = kind(place.settings, sandbox(place))
    async with EXECUTORS[kind.spec.action](place.settings) as executor:
        drilled = await carry_out(drill, executor, system_context(), check_id=f"check-{kind.spec.id}")
    assert drilled.verdict is Verdict.PASSED, drilled
    assert list(place.root.iterdir()) == []
    assert not place.root.is_mount()
    assert [path.name for path in place.cold.iterdir() if path.name != ".oncall-quarantine"] == []


async def test_a_full_disk_is_drilled_by_a_quota_where_nothing_may_be_mounted(
    place: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actions.fs_sandbox._MOUNT", "/bin/false")
    drill = DRILLS[0](place.settings, sandbox(place))
    async with Purge(place.settings) as executor:
        drilled = await carry_out(drill, executor, system_context(), check_id="check-quota")
    assert drilled.verdict is Verdict.PASSED, drilled


async def test_a_sandbox_that_is_not_named_listed_or_empty_is_not_touched(place: Folders) -> None:
    async def trouble(named: dict[str, Any]) -> str:
        drill = DRILLS[0](place.settings, named)
        with pytest.raises(PermanentError) as caught:
            await drill.prepare(system_context())
        await drill.clean_up(system_context())
        return str(caught.value)

    kept = put(place.root / "precious.dat")
    assert "must name root" in await trouble({})
    assert "must be listed" in await trouble({"root": str(place.saved)})
    assert "must be an empty folder" in await trouble({"root": str(place.root)})
    assert kept.exists()


async def test_what_a_killed_drill_left_behind_is_cleared_by_the_next(place: Folders) -> None:
    first = DRILLS[0](place.settings, sandbox(place))
    trial = await first.prepare(system_context())
    await first.inject(system_context(), trial)
    second = DRILLS[0](place.settings, sandbox(place))
    await second.prepare(system_context())
    await second.clean_up(system_context())
    assert (list(place.root.iterdir()), place.root.is_mount()) == ([], False)


@ROOT_ONLY
async def test_inspect_says_that_root_may_too_much(place: Folders) -> None:
    found = await FilesystemSystem(place.settings).inspect(system_context(), ["filesystem.purge"])
    assert (found.product, found.unsupported) == ("Linux", "")
    assert [one.name for one in found.privileges if one.held and not one.needed_by] == ["everything (uid 0)"]
    assert all(one.held for one in found.privileges if one.needed_by)


def test_grants_name_only_what_the_chosen_actions_need(place: Folders) -> None:
    system = FilesystemSystem(place.settings)
    purge = system.grants(["filesystem.purge"]).text
    assert (str(place.root) in purge, str(place.logs) in purge, str(place.cold) in purge) == (
        True,
        False,
        False,
    )
    assert "AmbientCapabilities=CAP_LEASE\n" in purge
    assert (
        "AmbientCapabilities=CAP_DAC_READ_SEARCH CAP_KILL CAP_SYS_PTRACE\n"
        in system.grants(["filesystem.rotate_logs"]).text
    )
    assert "AmbientCapabilities=\n" in system.grants(["filesystem.warm_or_rebuild"]).text


# --- exactly the generated rights, as another user --------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Folders]:
    """Folders of a service that runs as a user of its own."""
    base = Path(tempfile.mkdtemp(prefix="oncall-test-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        with folders(base) as made:
            yield made
    finally:
        shutil.rmtree(base, ignore_errors=True)


SERVICE_PROGRAM = """
exec 3>>"$1/app.log"; trap 'exec 3>>"$1/app.log"' HUP; echo $$ > "$1/app.pid"
while :; do echo line >&3; sleep 0.02; done
"""


@pytest.fixture
def service(shared: Folders) -> Iterator[Folders]:
    shared.more["log_roots"] = [str(shared.logs)]
    for number in range(3):
        put(shared.root / f"{number}.tmp"), put(shared.root / f"{number}.dat")
    for path in (shared.root, shared.logs, *shared.root.iterdir()):
        os.chown(path, SERVICE, SERVICE)
    argv = ["setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups", "/bin/bash", "-c"]
    running = subprocess.Popen([*argv, SERVICE_PROGRAM, "service", str(shared.logs)], start_new_session=True)
    try:
        while not (shared.logs / "app.pid").exists():
            pass
        yield shared
    finally:
        running.terminate()
        running.wait(10)


def grow(place: Folders) -> None:
    with (place.logs / "app.log").open("ab") as stream:
        stream.write(b"." * 2 * MIB + b"\n")


def apply(text: str, place: Folders) -> list[int]:
    """Run the generated commands for the user of the test; give the capabilities."""
    for line in text.splitlines():
        if line.startswith("setfacl"):
            subprocess.run(line.replace("u:oncall-agent:", f"u:{AGENT}:").split(), check=True)
    found = re.search(r"^AmbientCapabilities=(.*)$", text, re.MULTILINE)
    return [CAPABILITIES[name] for name in found[1].split()]


def run_as_agent(place: Folders, capabilities: list[int], attempts: list[dict[str, Any]]) -> dict[str, Any]:
    order = {
        "uid": AGENT,
        "capabilities": capabilities,
        "settings": place.settings,
        "attempts": attempts,
        "outside": str(place.base / "outside"),
    }
    argv = [sys.executable, str(SCENE), json.dumps(order)]
    root = str(SCENE.parents[2])
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=50, cwd=root, env={"PYTHONPATH": root}
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def declare(place: Folders) -> None:
    config = place.base / "rotation.conf"
    config.write_text(f"{place.logs}/*.log {{\n rotate 1\n copytruncate\n}}\n")
    config.chmod(0o644)
    state = place.base / "agent"
    state.mkdir()
    os.chown(state, AGENT, AGENT)
    place.more.update(
        rotations={"app": {"config": str(config), "state": str(state / "state")}},
        holders={"app": {"pid_file": str(place.logs / "app.pid")}},
        commands={"fill": {"argv": ["/usr/bin/touch", "one", "two"], "max_load": 100}},
    )


def attempts(place: Folders) -> list[dict[str, Any]]:
    root, logs = str(place.root), str(place.logs)
    old = {"older_than_seconds": 3_600}
    truncate = {"path": "app.log", "keep_tail_bytes": 0}
    release = {"holder": "app", "min_bytes": 1, "hold_seconds": 0.1}
    return [
        {"action": "filesystem.purge", "root": root, "params": {"glob": "*.tmp", **old}},
        {
            "action": "filesystem.move_cold",
            "root": root,
            "params": {"to": str(place.cold), "glob": "*.dat", **old},
        },
        {
            "action": "filesystem.warm_or_rebuild",
            "root": root,
            "params": {"command": "fill", "min_entries": 8},
        },
        {"action": "filesystem.truncate_log", "root": logs, "params": truncate},
        {"action": "filesystem.rotate_logs", "root": logs, "params": {"rotation": "app", "hold_seconds": 0}},
        {"action": "filesystem.release_deleted_open", "root": logs, "params": release},
    ]


@ROOT_ONLY
def test_every_action_works_with_exactly_the_generated_rights_and_nothing_else_does(service: Folders) -> None:
    declare(service)
    grow(service)
    chosen = attempts(service)
    granted = apply(FilesystemSystem(service.settings).grants(sorted(EXECUTORS)).text, service)
    told = run_as_agent(service, granted, chosen[:-1])
    assert told["ended"] == {one["action"]: ["verify: True ", "undo: True "] for one in chosen[:-1]}
    (service.logs / "app.log").unlink()
    let_go = run_as_agent(service, granted, chosen[-1:])
    assert let_go["ended"]["filesystem.release_deleted_open"][0] == "verify: True "
    assert (told["missing"], told["too_much"], told["outside"]) == ([], [], "Permission denied")
    assert str(AGENT) in told["identity"]


@ROOT_ONLY
def test_without_the_rights_the_actions_refuse_and_inspect_names_what_is_missing(service: Folders) -> None:
    declare(service)
    grow(service)
    told = run_as_agent(service, [], attempts(service))
    assert [steps for steps in told["ended"].values() if steps[0].startswith("verify: True")] == []
    assert "CAP_SYS_PTRACE" in told["missing"]
    assert f"write {service.root}" in told["missing"]
    apply(FilesystemSystem(service.settings).grants(sorted(EXECUTORS)).text, service)
    folders_only = run_as_agent(service, [], attempts(service)[3:4])
    assert "hide their files" in folders_only["ended"]["filesystem.truncate_log"][0]
    much = run_as_agent(service, [*CAPABILITIES.values(), 1], [])
    assert much["too_much"] == ["capability 1"]
