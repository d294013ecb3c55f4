"""`filesystem.truncate_log` and `rotate_logs` on logs that a real service writes, on real filesystems."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes.folders import Folders, folders

from actions import fs_truncate
from actions.fs_logs import RotateLogs, TruncateLog
from oncall_agent.contract import PermanentError, Receipt, TransientError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
MIB = 1_048_576


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Folders]:
    with folders(tmp_path) as made:
        yield made


def fill_up(descriptor: int) -> None:
    while True:
        os.write(descriptor, os.urandom(65_536))


def grow(log: Path, mark: bytes, size: int = 2 * MIB) -> None:
    with log.open("ab") as stream:
        stream.write(mark + b"\n")
        stream.write(b"." * size + b"\n")


@pytest.fixture(params=["blocks", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to cut: removing blocks, and copying down where the filesystem can't."""
    if request.param == "copy":
        monkeypatch.setattr(fs_truncate, "_fallocate", lambda *_: False)
    return request.param


async def test_the_head_goes_the_writer_goes_on_and_rollback_puts_it_back(place: Folders, way: str) -> None:
    executor = TruncateLog(place.settings)
    with place.writer() as log:
        grow(log, b"first")
        original = log.read_bytes()
        ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=65_536)
        check = await executor.precheck(ctx)
        assert (check.ok, len(check.facts["writers"])) == (True, 1)
        receipt = await executor.execute(ctx)
        assert log.stat().st_size < 300_000
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        saved = b"".join(gzip.decompress(path.read_bytes()) for path in place.logs.rglob("head.gz"))
        assert saved == original[: receipt.facts["cut"]]
        for _ in range(2):
            undone = await TruncateLog(place.settings).rollback(ctx, receipt)
            assert undone.ok, undone
            assert log.read_bytes().startswith(original)
        size = log.stat().st_size
    assert log.stat().st_size >= size
    assert b"\0" not in log.read_bytes()


async def test_no_line_is_lost_while_blocks_are_cut_from_under_a_busy_writer(place: Folders) -> None:
    program = "import os,sys\nf=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND|os.O_CREAT)\n"
    program += (
        "for n in range(40000): os.write(f, b'%07d\\n' % n)\nprint('end', flush=True)\nsys.stdin.read()\n"
    )
    log = place.logs / "busy.log"
    pipe = subprocess.PIPE
    executor = TruncateLog(place.settings)
    ctx = place.attempt(TruncateLog, place.logs, path="busy.log", keep_tail_bytes=0, must_grow=False)
    with subprocess.Popen([sys.executable, "-c", program, str(log)], stdin=pipe, stdout=pipe) as writer:
        while not log.exists() or log.stat().st_size < 20_000:
            pass
        receipt = await executor.execute(ctx)
        writer.stdout.readline()
        left = log.read_bytes()
        head = b"".join(gzip.decompress(path.read_bytes()) for path in place.logs.rglob("head.gz"))
        undone = await executor.rollback(ctx, receipt)
        whole = log.read_bytes()
        writer.communicate()
    expected = b"".join(b"%07d\n" % number for number in range(40_000))
    assert undone.ok, undone
    assert (head + left == expected, whole == expected) == (True, True)


async def test_a_second_call_in_another_process_cuts_nothing_more(place: Folders) -> None:
    with place.writer() as log:
        grow(log, b"first")
        ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0)
        first = await TruncateLog(place.settings).execute(ctx)
        grow(log, b"second")
        again = await TruncateLog(place.settings).execute(ctx)
        assert log.stat().st_size > MIB
    assert first.facts == again.facts


async def test_a_call_that_died_before_and_after_the_cut_is_gone_on_with(
    place: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = fs_truncate.cut_head
    with place.writer() as log:
        for is_cut in (False, True):
            grow(log, b"first %d" % is_cut)
            original = log.read_bytes()

            def dies(descriptor: int, count: int, is_cut: bool = is_cut) -> None:
                if is_cut:
                    cut(descriptor, count)
                raise OSError(5, "Input/output error")

            ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0)
            monkeypatch.setattr("actions.fs_logs.cut_head", dies)
            with pytest.raises(PermanentError):
                await TruncateLog(place.settings).execute(ctx)
            monkeypatch.setattr("actions.fs_logs.cut_head", cut)
            receipt = await TruncateLog(place.settings).execute(ctx)
            assert log.stat().st_size < MIB
            assert (await TruncateLog(place.settings).rollback(ctx, receipt)).ok
            assert log.read_bytes().startswith(original)


async def test_dry_run_says_what_would_go_and_leaves_everything(place: Folders) -> None:
    with place.writer() as log:
        grow(log, b"first")
        ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0, dry_run=True)
        receipt = await TruncateLog(place.settings).execute(ctx)
        assert (receipt.planned, receipt.facts["cut"] > MIB, log.stat().st_size > MIB) == (True, True, True)
    assert not (place.logs / ".oncall-quarantine").exists()


async def test_verify_fails_when_the_log_is_long_again_or_its_writer_is_gone(place: Folders) -> None:
    executor = TruncateLog(place.settings)
    with place.writer() as log:
        grow(log, b"first")
        ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0, within_seconds=0.2)
        receipt = await executor.execute(ctx)
        grow(log, b"second", 3 * MIB)
        assert (await executor.verify(ctx, receipt)).reason == "the log is not shorter than it was"
        await executor.execute(place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0))
    assert (await executor.verify(ctx, receipt)).reason == "nobody writes the log any more"


async def test_a_quiet_writer_is_no_proof_unless_it_may_be_quiet(place: Folders) -> None:
    executor, log = TruncateLog(place.settings), place.logs / "quiet.log"
    holder = [
        sys.executable,
        "-c",
        "import sys; f=open(sys.argv[1],'ab'); print(flush=True); sys.stdin.read()",
    ]
    with subprocess.Popen([*holder, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        grow(log, b"first")
        ctx = place.attempt(TruncateLog, place.logs, path="quiet.log", keep_tail_bytes=0, within_seconds=0.2)
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).reason == "the writer has not written since"
        loose = place.attempt(TruncateLog, place.logs, path="quiet.log", keep_tail_bytes=0, must_grow=False)
        assert (await executor.verify(loose, receipt)).ok
        writer.communicate()


async def test_a_log_without_an_appending_writer_is_refused(place: Folders) -> None:
    executor, log = TruncateLog(place.settings), place.logs / "app.log"
    ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0)
    grow(log, b"first")
    assert "no process" in (await executor.precheck(ctx)).reason
    with log.open("r+b"):
        holder = [
            sys.executable,
            "-c",
            "import sys; f=open(sys.argv[1],'r+b'); print(flush=True); sys.stdin.read()",
        ]
        with subprocess.Popen([*holder, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            assert "does not append" in (await executor.precheck(ctx)).reason
            with pytest.raises(PermanentError, match="does not append"):
                await executor.execute(ctx)
            writer.communicate()


async def test_short_linked_foreign_and_unlisted_logs_are_refused(place: Folders, tmp_path: Path) -> None:
    executor = TruncateLog(place.settings)
    outside = tmp_path / "outside.log"
    grow(outside, b"secret")
    (place.logs / "soft.log").symlink_to(outside)
    (place.logs / "folder").symlink_to(tmp_path)
    (place.logs / "hard.log").hardlink_to(outside)

    async def reason(path: str, where: Path = place.logs, **more: object) -> str:
        ctx = place.attempt(TruncateLog, where, path=path, **{"keep_tail_bytes": 0, **more})
        check = await executor.precheck(ctx)
        assert not check.ok
        return check.reason

    assert "other names" in await reason("hard.log")
    for path in ("soft.log", "folder/outside.log", "no-such.log"):
        assert "can't be opened" in await reason(path)
    assert "plain path" in await reason("../outside.log")
    assert "not a listed root" in await reason("outside.log", tmp_path)
    assert "protected" in await reason("hard.log", is_protected=True)
    with place.writer() as log:
        grow(log, b"first", 1_000)
        assert "not longer" in await reason("app.log", keep_tail_bytes=MIB)
    assert outside.stat().st_size > MIB


@ROOT_ONLY
async def test_a_filesystem_full_to_the_last_byte_is_freed_when_what_is_cut_is_saved_elsewhere(
    place: Folders,
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "oncall-test", str(place.logs)], check=True)
    try:
        with place.writer() as log, log.open("ab") as stream:
            with pytest.raises(OSError, match="No space"):
                fill_up(stream.fileno())
            ctx = place.attempt(TruncateLog, place.logs, path="app.log", keep_tail_bytes=0, must_grow=False)
            with pytest.raises(PermanentError):
                await TruncateLog(place.settings).execute(ctx)
            assert log.stat().st_size > 3 * MIB
            place.more["saved_folder"] = str(place.saved)
            receipt = await TruncateLog(place.settings).execute(ctx)
            assert (await TruncateLog(place.settings).verify(ctx, receipt)).ok
            assert os.statvfs(place.logs).f_bavail > 0
    finally:
        subprocess.run(["umount", str(place.logs)], check=True)


# --- rotate_logs ------------------------------------------------------------------------------------------------

ROTATES = pytest.mark.usefixtures("logrotate")


def rotation(place: Folders, text: str, *, name: str = "app") -> None:
    config = place.base / f"{name}.conf"
    config.write_text(f"{place.logs}/*.log {{\n rotate 3\n missingok\n {text}\n}}\n")
    place.base.chmod(0o755)
    config.chmod(0o644)
    place.more["rotations"] = {name: {"config": str(config), "state": str(place.base / "state")}}


def hangup(place: Folders) -> str:
    return f"create 0644\n postrotate\n kill -HUP $(cat {place.logs}/oncall-drill.pid)\n endscript"


@ROTATES
async def test_rotation_brings_a_new_file_into_use_once_per_key(place: Folders) -> None:
    rotation(place, hangup(place))
    with place.writer() as log:
        grow(log, b"first")
        old = log.stat().st_ino
        ctx = place.attempt(RotateLogs, place.logs, rotation="app", hold_seconds=0.1)
        check = await RotateLogs(place.settings).precheck(ctx)
        assert (check.ok, [one["path"] for one in check.facts["logs"]]) == (True, [str(log)])
        receipt = await RotateLogs(place.settings).execute(ctx)
        verified = await RotateLogs(place.settings).verify(ctx, receipt)
        assert verified.ok, verified
        again = await RotateLogs(place.settings).execute(ctx)
        assert (again.facts, log.stat().st_ino != old) == (receipt.facts, True)
    assert sorted(path.name for path in place.logs.glob("app.log*")) == ["app.log", "app.log.1"]


@ROTATES
async def test_verify_fails_while_the_service_still_writes_the_old_file(place: Folders) -> None:
    rotation(place, "create 0644")
    with place.writer() as log:
        grow(log, b"first")
        ctx = place.attempt(RotateLogs, place.logs, rotation="app", hold_seconds=0.1, within_seconds=0.5)
        receipt = await RotateLogs(place.settings).execute(ctx)
        assert (
            await RotateLogs(place.settings).verify(ctx, receipt)
        ).reason == "a process still writes the old file"


@ROTATES
async def test_after_a_crash_the_precheck_facts_tell_whether_it_was_rotated(place: Folders) -> None:
    rotation(place, hangup(place))
    with place.writer() as log:
        grow(log, b"first")
        ctx = place.attempt(RotateLogs, place.logs, rotation="app", hold_seconds=0.0, within_seconds=1.0)
        executor = RotateLogs(place.settings)
        partial = Receipt("", 0.0, (await executor.precheck(ctx)).facts, partial=True)
        assert (await executor.verify(ctx, partial)).reason == "the log was not rotated"
        again = place.attempt(
            RotateLogs, place.logs, rotation="app", key=ctx.idempotency_key, hold_seconds=0.0
        )
        await executor.execute(again)
        assert (await executor.verify(again, partial)).ok


@ROTATES
async def test_unfit_rotations_are_refused(place: Folders) -> None:
    async def reason(**more: object) -> str:
        check = await RotateLogs(place.settings).precheck(
            place.attempt(RotateLogs, place.logs, **{"rotation": "app", **more})
        )
        assert not check.ok
        return check.reason

    rotation(place, "create 0644")
    assert "no log is there" in await reason()
    grow(place.logs / "app.log", b"first")
    assert "protected" in await reason(is_protected=True)
    assert "no rotation is named" in await reason(rotation="other")
    config = place.base / "app.conf"
    config.chmod(0o666)
    assert "may be changed by others" in await reason()
    rotation(place, "rotat 3")
    assert "logrotate refuses" in await reason()
    config.write_text(f"{place.base}/outside.log {{\n rotate 1\n}}\n")
    grow(place.base / "outside.log", b"x", 10)
    assert "outside of its root" in await reason()
    (place.base / "more.conf").write_text("")
    (place.base / "more.conf").chmod(0o666)
    config.write_text(f"include {place.base}/more.conf\n{place.logs}/*.log {{\n rotate 1\n}}\n")
    assert "writable by group or others" in await reason()
    place.more["logrotate"] = "/usr/sbin/no-such-program"
    rotation(place, "create 0644")
    assert "can't be run" in await reason()


@ROTATES
async def test_dry_run_rotates_nothing_and_a_hanging_program_keeps_the_deadline(
    place: Folders, tmp_path: Path
) -> None:
    rotation(place, "create 0644")
    grow(place.logs / "app.log", b"first")
    ctx = place.attempt(RotateLogs, place.logs, rotation="app", dry_run=True)
    receipt = await RotateLogs(place.settings).execute(ctx)
    assert (receipt.planned, (place.logs / "app.log.1").exists()) == (True, False)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    place.more["logrotate"] = str(slow)
    with pytest.raises(TransientError, match="in time"):
        await RotateLogs(place.settings).execute(
            place.attempt(RotateLogs, place.logs, rotation="app", seconds=0.3)
        )
