"""The folder actions keep the contract, on real folders and real processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenes.folders import CLOCK, Folders, folders, names, put

from actions.fs_cold import MoveCold
from actions.fs_deleted import ReleaseDeletedOpen
from actions.fs_logs import RotateLogs, TruncateLog
from actions.fs_processes import deleted_bytes
from actions.fs_warm import WarmOrRebuild
from oncall_agent.contract import Executor, Target
from oncall_agent.testing import Harness, check_executor
from oncall_agent.testing.harness import Step, run_in_thread

MIB = 1_048_576


@dataclass
class Pool:
    """Threads that may be told to hang."""

    gate: asyncio.Event

    async def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        await self.gate.wait()
        return await run_in_thread(function, *args, **kwargs)


@dataclass
class World:
    """Folders and a service that writes `app.log` in them."""

    place: Folders
    log: Path
    pool: Pool

    def harness(
        self,
        kind: type[Executor],
        make_sick: Step,
        count: Callable[[], int],
        look: Callable[[], object],
        *,
        where: Path,
        **params: Any,
    ) -> Harness:
        async def effects() -> int:
            return count()

        async def snapshot() -> object:
            return look()

        async def hang() -> None:
            self.pool.gate.clear()

        async def release() -> None:
            self.pool.gate.set()

        return Harness(
            factory=lambda: kind(self.place.settings),
            target=Target("folder", "directory", address={"root": str(where)}),
            make_sick=make_sick,
            count_effects=effects,
            snapshot=snapshot,
            hang=hang,
            release=release,
            params=params,
            clock=CLOCK,
            run_blocking=self.pool,
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    gate = asyncio.Event()
    gate.set()
    tmp_path.chmod(0o755)
    with folders(tmp_path) as place, place.writer() as log:
        yield World(place, log, Pool(gate))


def grow(log: Path, mark: str) -> None:
    with log.open("ab") as stream:
        stream.write(mark.encode() + b"." * 3 * MIB + b"\n")


def truncate(world: World) -> Harness:
    number = itertools.count()

    async def make_sick() -> None:
        grow(world.log, f"fault {next(number)} ")

    def cuts() -> int:
        kept = world.place.logs.glob(".oncall-quarantine/*/record.json")
        return sum('"done": true' in one.read_text() for one in kept)

    def marks() -> object:
        return [line[:9] for line in world.log.read_bytes().splitlines() if b"fault" in line]

    params = {"path": "app.log", "keep_tail_bytes": 0, "within_seconds": 1.0}
    return world.harness(TruncateLog, make_sick, cuts, marks, where=world.place.logs, **params)


def rotate(world: World) -> Harness:
    config = world.place.base / "rotation.conf"
    script = f"postrotate\n echo x >> {world.place.base}/rotations\n kill -HUP $(cat {world.place.logs}/*.pid)\n endscript"
    config.write_text(f"{world.log} {{\n rotate 9\n create 0644\n {script}\n}}\n")
    config.chmod(0o644)
    world.place.more["rotations"] = {"app": {"config": str(config), "state": f"{world.place.base}/state"}}
    done = world.place.base / "rotations"

    async def make_sick() -> None:
        # The service goes back to the old file, as one that missed the signal.
        grow(world.log, "fault")
        for old in sorted(world.place.logs.glob("app.log.*")):
            old.rename(world.log)

    def count() -> int:
        return len(done.read_text().splitlines()) if done.exists() else 0

    return world.harness(
        RotateLogs,
        make_sick,
        count,
        count,
        where=world.place.logs,
        rotation="app",
        hold_seconds=0.0,
        within_seconds=1.0,
    )


def release_deleted(world: World) -> Harness:
    world.place.more["holders"] = {"app": {"pid_file": f"{world.place.logs}/oncall-drill.pid"}}

    async def make_sick() -> None:
        # A signal may still be on its way: it is waited for, else it would mend the next fault.
        pid = int((world.place.logs / "oncall-drill.pid").read_text())
        os.kill(pid, signal.SIGHUP)
        while not world.log.exists() or deleted_bytes(pid, world.log.stat().st_dev):
            await asyncio.sleep(0.005)
        size = world.log.stat().st_size
        while world.log.stat().st_size < size + 63:  # three lines: by then it has followed every signal
            await asyncio.sleep(0.005)
        grow(world.log, "fault")
        world.log.unlink()

    def signals() -> int:
        kept = world.place.logs.glob(".oncall-quarantine/*/record.json")
        return sum('"left": []' in one.read_text() for one in kept)

    return world.harness(
        ReleaseDeletedOpen,
        make_sick,
        signals,
        signals,
        where=world.place.logs,
        holder="app",
        hold_seconds=0.0,
        within_seconds=1.0,
    )


def cold(world: World) -> Harness:
    async def make_sick() -> None:
        for name in names(world.place.cold):
            (world.place.cold / name).unlink()
        for number in range(3):
            put(world.place.root / f"{number}.dat")

    def moves() -> int:
        return len(list(world.place.cold.glob(".oncall-quarantine/*/record.json")))

    return world.harness(
        MoveCold,
        make_sick,
        moves,
        lambda: names(world.place.root),
        where=world.place.root,
        to=str(world.place.cold),
    )


def warm(world: World) -> Harness:
    runs = world.place.base / "runs"
    argv = ["/bin/sh", "-c", 'echo run >> "$1"; touch entry', "fill", str(runs)]
    world.place.more["commands"] = {"fill": {"argv": argv, "max_load": 100}}

    async def make_sick() -> None:
        (world.place.root / "entry").unlink(missing_ok=True)

    def count() -> int:
        return len(runs.read_text().splitlines()) if runs.exists() else 0

    return world.harness(
        WarmOrRebuild,
        make_sick,
        count,
        lambda: names(world.place.root),
        where=world.place.root,
        command="fill",
        within_seconds=0.3,
    )


HARNESSES = {
    "filesystem.move_cold": cold,
    "filesystem.release_deleted_open": release_deleted,
    "filesystem.rotate_logs": rotate,
    "filesystem.truncate_log": truncate,
    "filesystem.warm_or_rebuild": warm,
}
ACTIONS = [
    pytest.param(action, marks=pytest.mark.backend("filesystem") if "rotate" in action else ())
    for action in HARNESSES
]


@pytest.mark.parametrize("action", ACTIONS)
async def test_executor_keeps_the_contract(action: str, world: World) -> None:
    scorecard = await check_executor(HARNESSES[action](world))
    assert not scorecard.failures, str(scorecard)


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_filesystem_that_hangs_ends_every_method_in_time_and_with_a_name(
    action: str, world: World
) -> None:
    harness = HARNESSES[action](world)
    await harness.make_sick()
    async with harness.factory() as executor:
        receipt = await executor.execute(harness.context()[0])
        world.pool.gate.clear()
        steps: list[Callable[[Any], Any]] = [
            executor.ping,
            executor.diagnose,
            executor.precheck,
            executor.execute,
            lambda ctx: executor.verify(ctx, receipt),
        ]
        for step in steps:
            ctx, _ = harness.context(seconds=0.1)
            said = await asyncio.gather(step(ctx), return_exceptions=True)
            assert "does not answer in time" in str(said)
        world.pool.gate.set()
        assert (await executor.ping(harness.context()[0])).ok
