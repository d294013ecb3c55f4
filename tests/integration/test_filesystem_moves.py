"""`filesystem.release_deleted_open`, `move_cold` and `warm_or_rebuild` on real processes and filesystems."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes.folders import Folders, folders, names, put

from actions import fs_cold
from actions.fs_cold import MoveCold
from actions.fs_deleted import ReleaseDeletedOpen
from actions.fs_processes import Process, process, send
from actions.fs_warm import WarmOrRebuild
from oncall_agent.contract import PermanentError

MIB = 1_048_576
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Folders]:
    with folders(tmp_path) as made:
        yield made


# --- release_deleted_open ---------------------------------------------------------------------------------------


def holder(place: Folders, **more: object) -> None:
    place.more["holders"] = {"app": {"pid_file": str(place.logs / "oncall-drill.pid"), **more}}


def delete(log: Path) -> None:
    with log.open("ab") as stream:
        stream.write(b"." * 3 * MIB)
    log.unlink()


def blocks_free(path: Path) -> int:
    return os.statvfs(path).f_bfree


async def test_a_signal_makes_the_service_let_go_and_is_sent_once(place: Folders) -> None:
    holder(place)
    with place.writer() as log:
        delete(log)
        ctx = place.attempt(ReleaseDeletedOpen, place.logs, holder="app", hold_seconds=0.2)
        check = await ReleaseDeletedOpen(place.settings).precheck(ctx)
        assert (check.ok, check.facts["bytes"] >= 3 * MIB) == (True, True)
        receipt = await ReleaseDeletedOpen(place.settings).execute(ctx)
        verified = await ReleaseDeletedOpen(place.settings).verify(ctx, receipt)
        assert verified.ok, verified
        delete(log)
        again = await ReleaseDeletedOpen(place.settings).execute(ctx)
        assert again.facts == receipt.facts
        assert not log.exists()  # a second signal would have made the service open it anew
        short = place.attempt(ReleaseDeletedOpen, place.logs, holder="app", seconds=0.3, within_seconds=0.2)
        assert (
            "still deleted but open"
            in (await ReleaseDeletedOpen(place.settings).verify(short, receipt)).reason
        )


async def test_verify_fails_when_the_service_died_of_the_signal(place: Folders) -> None:
    holder(place, signals=["TERM"])
    with place.writer() as log:
        delete(log)
        ctx = place.attempt(ReleaseDeletedOpen, place.logs, holder="app", hold_seconds=0.1, seconds=1.0)
        receipt = await ReleaseDeletedOpen(place.settings).execute(ctx)
        assert receipt.facts["signal"] == "TERM"
        assert (
            await ReleaseDeletedOpen(place.settings).verify(ctx, receipt)
        ).reason == "the service does not run"


async def test_unfit_releases_are_refused(place: Folders) -> None:
    holder(place)
    executor = ReleaseDeletedOpen(place.settings)

    async def reason(**more: object) -> str:
        ctx = place.attempt(ReleaseDeletedOpen, place.logs, **{"holder": "app", **more})
        check = await executor.precheck(ctx)
        assert not check.ok
        return check.reason

    assert "pid file is not there" in await reason()
    with place.writer() as log:
        assert "only 0 bytes" in await reason()
        delete(log)
        assert "may not be sent TERM" in await reason(signal="TERM")
        assert "no holder is named" in await reason(holder="other")
        assert "only 0 bytes" in await reason(pid=os.getppid())
        assert "only" in await reason(min_bytes=1 << 40)
        assert "protected" in await reason(is_protected=True)
        with pytest.raises(PermanentError, match="may not be sent"):
            await executor.execute(place.attempt(ReleaseDeletedOpen, place.logs, holder="app", signal="TERM"))


async def test_a_service_is_found_by_its_program_and_init_never_is(place: Folders) -> None:
    real = os.path.realpath(sys.executable)
    place.more["holders"] = {"app": {"program": real}, "init": {"pid_file": str(place.base / "init.pid")}}
    (place.base / "init.pid").write_text("1\n")
    executor = ReleaseDeletedOpen(place.settings)
    with place.writer() as log:
        delete(log)
        pid = int((place.logs / "oncall-drill.pid").read_text())
        ctx = place.attempt(ReleaseDeletedOpen, place.logs, holder="app", pid=pid)
        assert (await executor.precheck(ctx)).facts["processes"][0]["pid"] == pid
        init = place.attempt(ReleaseDeletedOpen, place.logs, holder="init")
        assert "only 0 bytes" in (await executor.precheck(init)).reason


def test_a_number_that_another_process_has_by_now_is_not_signalled() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as other:
        found = process(other.pid)
        assert not send(Process(found.pid, found.started - 1, found.name), "TERM")
        assert other.poll() is None
        assert send(found, "TERM")
        assert other.wait(10) == -signal.SIGTERM
    assert not send(found, "TERM")


async def test_dry_run_signals_nobody(place: Folders) -> None:
    holder(place)
    with place.writer() as log:
        delete(log)
        ctx = place.attempt(ReleaseDeletedOpen, place.logs, holder="app", dry_run=True)
        receipt = await ReleaseDeletedOpen(place.settings).execute(ctx)
        await asyncio.sleep(0.01)
        assert (receipt.planned, log.exists()) == (True, False)


# --- move_cold --------------------------------------------------------------------------------------------------


def cold(place: Folders, **more: object) -> dict[str, object]:
    return {"to": str(place.cold), "older_than_seconds": 3_600, **more}


async def test_cold_files_move_with_their_content_and_rights_and_come_back(place: Folders) -> None:
    put(place.root / "a.dat", b"a" * 5_000).chmod(0o640)
    put(place.root / "deep/er/b.dat", b"b" * 70_000)
    put(place.root / "young.dat", at=1e10)
    before = {name: (place.root / name).read_bytes() for name in names(place.root)}
    ctx = place.attempt(MoveCold, place.root, **cold(place, glob="*.dat"))
    check = await MoveCold(place.settings).precheck(ctx)
    assert (check.ok, check.facts["files"], check.facts["bytes"]) == (True, 2, 75_000)
    receipt = await MoveCold(place.settings).execute(ctx)
    assert (names(place.root), names(place.cold)) == ({"young.dat"}, {"a.dat", "deep/er/b.dat"})
    found = (place.cold / "a.dat").stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o640, 1_600_000_000.0)
    verified = await MoveCold(place.settings).verify(ctx, receipt)
    assert verified.ok, verified
    put(place.root / "late.dat")
    assert (await MoveCold(place.settings).execute(ctx)).facts == receipt.facts
    (place.root / "late.dat").unlink()
    for _ in range(2):
        undone = await MoveCold(place.settings).rollback(ctx, receipt)
        assert undone.ok, undone
        assert {name: (place.root / name).read_bytes() for name in names(place.root)} == before
    assert names(place.cold) == set()


async def test_verify_fails_on_a_changed_copy_and_on_files_that_were_left(place: Folders) -> None:
    put(place.root / "a.dat")
    ctx = place.attempt(MoveCold, place.root, **cold(place))
    receipt = await MoveCold(place.settings).execute(ctx)
    put(place.root / "b.dat")
    assert "should have gone" in (await MoveCold(place.settings).verify(ctx, receipt)).reason
    put(place.cold / "a.dat", b"y" * 1_000)
    assert "not there as they were" in (await MoveCold(place.settings).verify(ctx, receipt)).reason
    undone = await MoveCold(place.settings).rollback(ctx, receipt)
    assert (undone.ok, undone.reason) == (False, "1 files could not go back")


async def test_a_move_that_died_half_way_is_gone_on_with_and_loses_nothing(
    place: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        put(place.root / f"{number}.dat", b"%d" % number * 1_000, at=1_600_000_000 + number)
    before = {name: (place.root / name).read_bytes() for name in names(place.root)}
    ctx = place.attempt(MoveCold, place.root, **cold(place))
    count = 0

    def dies(root: str, moved: object) -> bool:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(5, "Input/output error")
        return removed(root, moved)

    removed = fs_cold.removed
    monkeypatch.setattr(fs_cold, "removed", dies)
    with pytest.raises(PermanentError, match="Input/output"):
        await MoveCold(place.settings).execute(ctx)
    receipt = await MoveCold(place.settings).execute(ctx)
    assert (receipt.facts["files"], names(place.root), len(names(place.cold))) == (4, set(), 4)
    assert {name: (place.cold / name).read_bytes() for name in names(place.cold)} == before


async def test_nothing_is_overwritten_at_either_end(place: Folders) -> None:
    put(place.root / "a.dat", b"ours"), put(place.cold / "a.dat", b"theirs")
    put(place.root / "b.dat", b"ours")
    ctx = place.attempt(MoveCold, place.root, **cold(place))
    receipt = await MoveCold(place.settings).execute(ctx)
    assert ((place.root / "a.dat").read_bytes(), (place.cold / "a.dat").read_bytes()) == (b"ours", b"theirs")
    put(place.root / "b.dat", b"new")
    assert not (await MoveCold(place.settings).rollback(ctx, receipt)).ok
    assert ((place.root / "b.dat").read_bytes(), (place.cold / "b.dat").read_bytes()) == (b"new", b"ours")


async def test_an_open_file_and_a_link_stay(place: Folders, tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.dat")
    (place.root / "link.dat").symlink_to(secret)
    opened = put(place.root / "open.dat")
    put(place.root / "free.dat")
    program = "import sys; f=open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program, str(opened)], stdin=pipe, stdout=pipe) as reader:
        reader.stdout.readline()
        await MoveCold(place.settings).execute(place.attempt(MoveCold, place.root, **cold(place)))
        reader.communicate()
    assert (names(place.cold), secret.exists(), opened.exists()) == ({"free.dat"}, True, True)


async def test_unfit_moves_are_refused(place: Folders, tmp_path: Path) -> None:
    async def reason(**more: object) -> str:
        ctx = place.attempt(MoveCold, place.root, **cold(place, **more))
        check = await MoveCold(place.settings).precheck(ctx)
        assert not check.ok
        return check.reason

    assert await reason() == "no file may go"
    put(place.root / "a.dat")
    assert "not a listed root" in await reason(to=str(tmp_path))
    assert "protected" in await reason(is_protected=True)
    place.more["cold_roots"] = [str(place.saved)]
    assert "same filesystem" in await reason(to=str(place.saved))
    ctx = place.attempt(MoveCold, place.root, **cold(place, to=str(place.saved)))
    with pytest.raises(PermanentError, match="same filesystem"):
        await MoveCold(place.settings).execute(ctx)


@ROOT_ONLY
async def test_a_destination_without_room_is_refused(place: Folders) -> None:
    put(place.root / "a.dat", b"x" * 2 * MIB)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "oncall-test", str(place.saved)], check=True)
    try:
        place.more["cold_roots"] = [str(place.saved)]
        ctx = place.attempt(MoveCold, place.root, **cold(place, to=str(place.saved)))
        assert "has room for" in (await MoveCold(place.settings).precheck(ctx)).reason
    finally:
        subprocess.run(["umount", str(place.saved)], check=True)


async def test_dry_run_moves_nothing(place: Folders) -> None:
    put(place.root / "a.dat")
    receipt = await MoveCold(place.settings).execute(
        place.attempt(MoveCold, place.root, dry_run=True, **cold(place))
    )
    assert (receipt.planned, receipt.facts["shown"], names(place.root)) == (True, ["a.dat"], {"a.dat"})
    assert not list(place.cold.iterdir())


# --- warm_or_rebuild --------------------------------------------------------------------------------------------


def command(place: Folders, program: str, *arguments: str, **more: object) -> None:
    argv = ["/usr/bin/env", "sh", "-c", program, "fill", *arguments]
    place.more["commands"] = {"fill": {"argv": argv, "max_load": 100, **more}}


async def test_the_program_fills_the_folder_once_and_rollback_empties_it(place: Folders) -> None:
    command(
        place,
        "echo run >> \"$1\"; mkdir -p a; echo x > a/entry; echo y > '; touch evil'",
        str(place.base / "runs"),
    )
    ctx = place.attempt(WarmOrRebuild, place.root, command="fill", min_entries=2)
    check = await WarmOrRebuild(place.settings).precheck(ctx)
    assert (check.ok, check.facts["entries"]) == (True, 0)
    receipt = await WarmOrRebuild(place.settings).execute(ctx)
    assert (await WarmOrRebuild(place.settings).verify(ctx, receipt)).ok
    assert (await WarmOrRebuild(place.settings).execute(ctx)).facts == receipt.facts
    assert (place.base / "runs").read_text() == "run\n"
    for _ in range(2):
        assert (await WarmOrRebuild(place.settings).rollback(ctx, receipt)).ok
        assert names(place.root) == set()


async def test_the_program_gets_no_environment_but_what_is_declared(
    place: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "s3cr3t")
    command(place, "env > entry", environment={"MODE": "full"})
    await WarmOrRebuild(place.settings).execute(place.attempt(WarmOrRebuild, place.root, command="fill"))
    said = (place.root / "entry").read_text()
    assert ("MODE=full" in said, "s3cr3t" in said) == (True, False)


async def test_a_program_that_hangs_is_killed_with_its_children(place: Folders) -> None:
    command(place, 'sleep 60 & echo $! > "$1"; wait', str(place.base / "child"), timeout_seconds=1.0)
    ctx = place.attempt(WarmOrRebuild, place.root, command="fill")
    with pytest.raises(PermanentError, match="did not end in"):
        await WarmOrRebuild(place.settings).execute(ctx)
    child = int((place.base / "child").read_text())
    assert process(child) is None
    with pytest.raises(PermanentError, match="how it ended is not known"):
        await WarmOrRebuild(place.settings).execute(ctx)


async def test_a_program_that_fails_is_named_and_one_that_may_be_repeated_is(place: Folders) -> None:
    command(
        place,
        'test -e "$1" && touch entry; touch "$1"; test -e entry',
        str(place.base / "second"),
        repeatable=True,
    )
    ctx = place.attempt(WarmOrRebuild, place.root, command="fill")
    with pytest.raises(PermanentError, match="ended with 1"):
        await WarmOrRebuild(place.settings).execute(ctx)
    receipt = await WarmOrRebuild(place.settings).execute(ctx)
    assert (await WarmOrRebuild(place.settings).verify(ctx, receipt)).ok
    (place.root / "entry").unlink()
    short = place.attempt(WarmOrRebuild, place.root, command="fill", seconds=0.2)
    assert (await WarmOrRebuild(place.settings).verify(short, receipt)).reason == "0 entries, 0 before"


async def test_unfit_commands_are_refused(place: Folders) -> None:
    async def reason(**more: object) -> str:
        ctx = place.attempt(WarmOrRebuild, place.root, **{"command": "fill", **more})
        check = await WarmOrRebuild(place.settings).precheck(ctx)
        assert not check.ok
        return check.reason

    command(place, "true", max_load=0.000001)
    assert ("load" in await reason()) or os.getloadavg()[0] == 0
    command(place, "true")
    assert "no command is named" in await reason(command="other")
    assert "protected" in await reason(is_protected=True)
    put(place.root / "entry")
    assert "it is warm" in await reason()
    program = put(place.base / "program", b"#!/bin/sh\n")
    place.more["commands"] = {"fill": {"argv": [str(program)], "max_load": 100}}
    assert "can't be run" in await reason()
    program.chmod(0o777)
    assert "may be changed by others" in await reason()
    program.unlink()
    assert "not there" in await reason()


async def test_dry_run_starts_nothing(place: Folders) -> None:
    command(place, "touch entry")
    ctx = place.attempt(WarmOrRebuild, place.root, command="fill", dry_run=True)
    assert (await WarmOrRebuild(place.settings).execute(ctx)).planned
    assert names(place.root) == set()
