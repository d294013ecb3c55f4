"""`filesystem.purge` on real folders: what goes, what comes back, and every way out of the root that is shut."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actions import fs_quarantine
from actions.filesystem import DiskProber, Purge
from actions.fs_open_files import OpenFiles
from actions.fs_quarantine import QUARANTINE, Quarantine
from oncall_agent.contract import ActionContext, Receipt, SystemClock, Target
from oncall_agent.testing import context_for
from oncall_agent.testing.harness import run_in_thread

OLD = 1_600_000_000
clock = SystemClock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def put(path: Path, size: int = 1_000, at: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (at, at))
    return path


def attempt(root: Path | str, *, key: str = "", dry_run: bool = False, **params: object) -> ActionContext:
    return context_for(
        Purge.spec.params.model_validate(params),
        Target("cache", "directory", address={"root": str(root)}),
        clock=clock,
        key=key,
        dry_run=dry_run,
        run_blocking=run_in_thread,
    )


def purge(*roots: Path, **settings: object) -> Purge:
    return Purge({"roots": [str(root) for root in roots], "min_age_seconds": 0, **settings})


def visible(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and QUARANTINE not in path.parts
    }


async def test_old_files_go_and_rollback_brings_them_back_with_their_content(root: Path) -> None:
    put(root / "a.tmp"), put(root / "deep/er/b.tmp", 5_000), put(root / "keep.db")
    put(root / "young.tmp", at=clock.now())
    before = {name: (root / name).read_bytes() for name in visible(root)}
    executor, ctx = purge(root), attempt(root, glob="*.tmp", older_than_seconds=3600)
    check = await executor.precheck(ctx)
    assert (check.ok, check.facts["files"], check.facts["bytes"]) == (True, 2, 6_000)
    receipt = await executor.execute(ctx)
    assert visible(root) == {"keep.db", "young.tmp"}
    assert (await executor.verify(ctx, receipt)).ok
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert {name: (root / name).read_bytes() for name in visible(root)} == before


async def test_dry_run_lists_and_moves_nothing(root: Path) -> None:
    put(root / "a.tmp")
    receipt = await purge(root).execute(attempt(root, dry_run=True))
    assert (receipt.planned, receipt.facts["shown"], visible(root)) == (True, ["a.tmp"], {"a.tmp"})
    assert not (root / QUARANTINE).exists()


async def test_max_bytes_takes_the_oldest_first(root: Path) -> None:
    for number in range(5):
        put(root / f"{number}.tmp", 1_000, OLD + number)
    executor, ctx = purge(root), attempt(root, max_bytes=2_500)
    receipt = await executor.execute(ctx)
    assert (receipt.facts["is_cut"], visible(root)) == (True, {"2.tmp", "3.tmp", "4.tmp"})
    assert (await executor.verify(ctx, receipt)).ok


async def test_a_link_to_a_file_or_folder_outside_is_never_followed(root: Path, tmp_path: Path) -> None:
    secret = put(tmp_path / "outside/secret.tmp")
    (root / "link.tmp").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    put(root / "own.tmp")
    await purge(root).execute(attempt(root))
    assert secret.exists()
    assert (root / "link.tmp").is_symlink()
    assert visible(root) == {"link.tmp"}


async def test_a_folder_swapped_for_a_link_between_looking_and_moving_is_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = put(tmp_path / "outside/victim.tmp")
    put(root / "sub/victim.tmp")
    choose = fs_quarantine._choose

    def swapped(*args):
        chosen = choose(*args)
        (root / "sub").rename(tmp_path / "moved")
        (root / "sub").symlink_to(secret.parent)
        return chosen

    monkeypatch.setattr(fs_quarantine, "_choose", swapped)
    receipt = await purge(root).execute(attempt(root))
    assert (receipt.facts["files"], secret.exists(), (tmp_path / "moved/victim.tmp").exists()) == (
        0,
        True,
        True,
    )


async def test_a_file_swapped_for_another_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = put(root / "victim.tmp")
    choose = fs_quarantine._choose

    def swapped(*args):
        chosen = choose(*args)
        put(root / "other", 7).replace(victim)
        return chosen

    monkeypatch.setattr(fs_quarantine, "_choose", swapped)
    receipt = await purge(root).execute(attempt(root))
    assert (receipt.facts["files"], victim.stat().st_size) == (0, 7)


async def test_rollback_through_a_planted_link_writes_nothing_outside(root: Path, tmp_path: Path) -> None:
    put(root / "sub/a.tmp")
    executor, ctx = purge(root), attempt(root)
    receipt = await executor.execute(ctx)
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "sub").rmdir()
    (root / "sub").symlink_to(outside)
    check = await executor.rollback(ctx, receipt)
    assert (check.ok, list(outside.iterdir()), check.facts["left"]) == (False, [], 1)


async def test_rollback_overwrites_no_file_that_came_meanwhile(root: Path) -> None:
    put(root / "a.tmp", 1_000)
    executor, ctx = purge(root), attempt(root)
    receipt = await executor.execute(ctx)
    put(root / "a.tmp", 5)
    check = await executor.rollback(ctx, receipt)
    assert (check.ok, (root / "a.tmp").stat().st_size) == (False, 5)


async def test_a_file_that_is_open_stays(root: Path) -> None:
    busy, idle = put(root / "busy.tmp"), put(root / "idle.tmp")
    holder = await asyncio.create_subprocess_exec(
        "python3", "-c", "import sys; f = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()", str(busy),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await holder.stdout.readline()
        await purge(root).execute(attempt(root))
        assert (busy.exists(), idle.exists()) == (True, False)
    finally:
        holder.kill()
        await holder.communicate()


async def test_when_processes_hide_their_files_the_kernel_is_asked_for_each(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle = put(root / "busy.tmp"), put(root / "sub/idle.tmp")
    monkeypatch.setattr(
        OpenFiles, "of_this_machine", classmethod(lambda cls: cls(frozenset(), is_complete=False))
    )
    with busy.open("rb"):
        await purge(root).execute(attempt(root))
    assert (busy.exists(), idle.exists()) == (True, False)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("{tmp}/other", "not a listed root"),
        ("{tmp}/cache/..", "not a listed root"),
        ("{tmp}/cache/sub", "not a listed root"),
        ("{tmp}/link", "through a link"),
        ("relative", "absolute root"),
    ],
    ids=["elsewhere", "dots", "below", "link", "relative"],
)
async def test_precheck_refuses_a_folder_off_the_list(
    path: str, reason: str, root: Path, tmp_path: Path
) -> None:
    put(root / "sub/a.tmp"), put(tmp_path / "other/a.tmp")
    (tmp_path / "link").symlink_to(root)
    check = await purge(root).precheck(attempt(path.format(tmp=tmp_path)))
    assert not check.ok
    assert reason in check.reason


async def test_precheck_refuses_when_nothing_may_go(root: Path) -> None:
    put(root / "young.tmp", at=clock.now())
    check = await purge(root).precheck(attempt(root))
    assert (check.ok, check.reason) == (False, "no file may go")


async def test_verify_fails_when_files_that_should_have_gone_are_there(root: Path) -> None:
    put(root / "a.tmp")
    executor, ctx = purge(root), attempt(root)
    receipt = await executor.execute(ctx)
    put(root / "b.tmp")
    check = await executor.verify(ctx, receipt)
    assert (check.ok, check.reason) == (False, "1 files that should have gone are there")


async def test_verify_fails_when_it_never_took_place(root: Path) -> None:
    put(root / "a.tmp")
    ctx = attempt(root)
    check = await purge(root).verify(ctx, Receipt("filesystem.purge", 0.0, {}, partial=True))
    assert not check.ok


async def test_a_crash_half_way_is_completed_under_the_same_key_within_the_limits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        put(root / f"{number}.tmp", 1_000, OLD + number)
    ctx, move, moved = attempt(root, max_files=4), fs_quarantine._move, iter(range(2))

    def crashing(*args):
        if next(moved, None) is None:
            raise RuntimeError("killed")
        return move(*args)

    monkeypatch.setattr(fs_quarantine, "_move", crashing)
    with pytest.raises(RuntimeError):
        await purge(root).execute(ctx)
    monkeypatch.undo()
    receipt = await purge(root).execute(ctx)
    assert (receipt.facts["files"], visible(root)) == (4, {"4.tmp", "5.tmp"})


@pytest.mark.parametrize(
    ("later", "is_urgent", "gone"),
    [(0, False, 0), (100, False, 1), (0, True, 1)],
    ids=["in time", "out of time", "urgent"],
)
async def test_the_quarantine_is_emptied_at_its_time_or_when_urgent(
    later: float, is_urgent: bool, gone: int, root: Path
) -> None:
    put(root / "a.tmp")
    await purge(root, quarantine_seconds=60).execute(attempt(root))
    assert Quarantine.sweep(str(root), clock.now() + later, is_urgent=is_urgent) == gone
    assert len(list((root / QUARANTINE).iterdir())) == 1 - gone


async def test_a_quarantine_that_is_just_being_made_is_not_swept_away(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / "a.tmp")
    write = os.write

    def swept(descriptor: int, text: bytes) -> int:
        Quarantine.sweep(str(root), clock.now(), is_urgent=False)
        return write(descriptor, text)

    monkeypatch.setattr("actions.fs_folders.os.write", swept)
    ctx = attempt(root)
    receipt = await purge(root).execute(ctx)
    assert receipt.facts["files"] == 1
    assert (await purge(root).rollback(ctx, receipt)).ok
    assert visible(root) == {"a.tmp"}


async def test_the_sweeper_runs_while_the_executor_is_open(root: Path) -> None:
    put(root / "a.tmp")
    executor = purge(root, quarantine_seconds=60)
    await executor.execute(attempt(root))
    [name] = os.listdir(root / QUARANTINE)  # noqa: PTH208 - names
    (root / QUARANTINE / name / "expires_at").write_text("1.0")
    async with executor, asyncio.timeout(5):
        while os.listdir(root / QUARANTINE):  # noqa: PTH208 - names
            await asyncio.sleep(0.01)


@pytest.fixture
def other_device(root: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = root / "mounted"
    mount.mkdir()
    if os.system(f"mount -t tmpfs none '{mount}' 2>/dev/null") != 0:
        pytest.skip("this machine does not let us mount")
    yield mount
    os.system(f"umount '{mount}'")


async def test_another_filesystem_below_the_root_is_not_entered(root: Path, other_device: Path) -> None:
    put(other_device / "a.tmp"), put(root / "b.tmp")
    await purge(root).execute(attempt(root))
    assert visible(root) == {"mounted/a.tmp"}


@pytest.mark.parametrize(
    ("params", "up"),
    [
        ({"high_water": 1.0}, True),
        ({"high_water": 1e-9}, False),
        ({"high_water": 1.0, "quota_bytes": 5_000}, True),
        ({"high_water": 1.0, "quota_bytes": 1_500}, False),
    ],
    ids=["room", "full", "within quota", "over quota"],
)
async def test_disk_prober(params: dict[str, float], up: bool, root: Path) -> None:
    put(root / "a", 2_000)
    prober = DiskProber({})
    target = Target("cache", "directory", address={"root": str(root)})
    reading = await prober.read(
        target, prober.params(**params), timeout_seconds=5.0, clock=clock, run_blocking=run_in_thread
    )
    assert reading.signals.up is up
    assert reading.facts["total_bytes"] > 0


async def test_disk_prober_counts_quarantined_bytes_as_free(root: Path) -> None:
    put(root / "a.tmp", 2_000)
    await purge(root).execute(attempt(root))
    prober = DiskProber({})
    target = Target("cache", "directory", address={"root": str(root)})
    params = prober.params(high_water=1.0, quota_bytes=1_000)
    reading = await prober.read(target, params, timeout_seconds=5.0, clock=clock, run_blocking=run_in_thread)
    assert (reading.signals.up, reading.facts["quarantine_bytes"] >= 2_000) == (True, True)
