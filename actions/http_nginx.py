"""nginx as a balancer: an include file with one server per line, a test of the whole, a reload.

The file is replaced by renaming and put back when nginx does not accept it. Whether a change is in use shows in
the workers: they are younger than the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from actions.http_declared import NginxPool
from actions.http_pools import Balancer, Member, Members, Share
from actions.http_program import run_program
from oncall_agent.contract import ActionContext, ActionError, PermanentError, TransientError
from oncall_agent.contract.http import SafeHttp

_SERVER = re.compile(r"^\s*server\s+(?P<address>[^\s;]+)(?P<options>[^;]*);\s*(?:#\s*(?P<name>\S+))?.*$")
_MAX_BYTES, _MAX_MEMBERS = 1_048_576, 200
_BAD_STATUS = 400
_STARTED_AT = 19
# The kernel counts a process's start in ticks.
_TOLERANCE_SECONDS = 2.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One `server` directive."""

    address: str
    options: tuple[str, ...]
    name: str

    @property
    def share(self) -> Share:
        """Its weight, and whether it is down."""
        weights = [one.removeprefix("weight=") for one in self.options if one.startswith("weight=")]
        weight = int(weights[-1]) if weights and weights[-1].isdecimal() else 1
        return Share(weight, "down" in self.options)

    def with_share(self, share: Share) -> ServerLine:
        """Give the same with another share; nginx knows no weight of 0, only `down`."""
        kept = [one for one in self.options if one != "down" and not one.startswith("weight=")]
        added = [f"weight={max(1, share.weight)}", *(("down",) if share.effective == 0 else ())]
        return replace(self, options=(*kept, *added))

    def __str__(self) -> str:
        return f"server {' '.join((self.address, *self.options))}; # {self.name}"


def parsed(text: str) -> dict[str, ServerLine]:
    """Give the servers of an include file by name.

    Raises:
        PermanentError: two have one name, or there are too many.
    """
    found: dict[str, ServerLine] = {}
    for line in text.splitlines():
        match = _SERVER.match(line)
        if match:
            one = ServerLine(
                match["address"], tuple(match["options"].split()), match["name"] or match["address"]
            )
            if one.name in found or len(found) >= _MAX_MEMBERS:
                raise PermanentError(f"the include file names {one.name} twice, or too many servers")
            found[one.name] = one
    return found


def rewritten(text: str, name: str, share: Share) -> str:
    """Give the include file with one server's share changed; every other line stays as it is."""
    lines = []
    for line in text.splitlines():
        one = next(iter(parsed(line).values()), None)
        lines.append(str(one.with_share(share)) if one is not None and one.name == name else line)
    return "\n".join(lines) + "\n"


class Nginx(Balancer):
    """One upstream."""

    def __init__(self, pool: NginxPool, http: SafeHttp, timeout_seconds: float) -> None:
        self._pool, self._http, self._timeout = pool, http, timeout_seconds

    async def read(self, ctx: ActionContext) -> Members:
        """Read the file and ask each member."""
        lines = parsed(await ctx.run_blocking(_content, self._pool.include))
        answers = await asyncio.gather(*(self._is_up(ctx, line) for line in lines.values()))
        return {
            line.name: Member(line.name, line.share, is_up)
            for line, is_up in zip(lines.values(), answers, strict=True)
        }

    async def write(self, ctx: ActionContext, name: str, share: Share, key: str) -> None:
        """Replace the file, test, reload; put it back when nginx refuses."""
        with _alone(self._pool.include):
            before = await ctx.run_blocking(_content, self._pool.include)
            lines = parsed(before)
            if name not in lines:
                raise PermanentError(f"the pool has no member {name!r}")
            after = rewritten(before, name, share)
            if lines[name].share == parsed(after)[name].share and not await self.unused_reason(ctx):
                return
            await self._replaced(ctx, before, after)

    async def unused_reason(self, ctx: ActionContext) -> str:
        """Compare the workers' age with the file's."""
        return await ctx.run_blocking(_stale, self._pool)

    async def version(self, ctx: ActionContext) -> str:
        """Ask the program."""
        said = await run_program((*self._pool.test[:-1], "-v"), min(self._timeout, ctx.seconds_left))
        return said.strip().rpartition("/")[2][:50]

    async def _replaced(self, ctx: ActionContext, before: str, after: str) -> None:
        seconds = min(self._timeout * 2, ctx.seconds_left)
        await ctx.run_blocking(_replace, self._pool.include, after)
        try:
            await run_program(self._pool.test, seconds)
            await run_program(self._pool.reload, seconds)
        except (ActionError, asyncio.CancelledError):
            # Also when the deadline cuts in: a file that was never taken into use must not be found by a restart.
            _replace(self._pool.include, before)
            raise
        while await self.unused_reason(ctx):
            if ctx.seconds_left <= 0:
                raise TransientError("nginx does not take the change into use in time")
            await ctx.clock.sleep(0.02)

    async def _is_up(self, ctx: ActionContext, line: ServerLine) -> bool:
        url = f"http://{line.address}{self._pool.health_path}"
        host = line.address if ":" in line.address else f"{line.address}:80"
        try:
            answer = await self._http.send(
                "GET", url, allowed=(host,), timeout_seconds=min(self._timeout, ctx.seconds_left)
            )
        except ActionError:
            return False
        return answer.status < _BAD_STATUS


def _content(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as stream:
            return stream.read(_MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"the include file can't be read ({type(error).__name__})") from error


def _replace(path: str, text: str) -> None:
    partial = f"{path}.oncall-new"
    try:
        found = Path(path).stat()
        descriptor = os.open(
            partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), found.st_mode & 0o777)
            with contextlib.suppress(PermissionError):
                os.fchown(stream.fileno(), found.st_uid, found.st_gid)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(path)
    except OSError as error:
        raise PermanentError(f"the include file can't be replaced ({error.strerror})") from error


def _stale(pool: NginxPool) -> str:
    try:
        changed_at = Path(pool.include).stat().st_mtime
        master = int(Path(pool.pid_file).read_text(encoding="utf-8")[:32])
        children = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "nginx does not run"
    boot = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
    started = [boot + seconds for seconds in map(_worker_start, children) if seconds is not None]
    if not started:
        return "nginx has no worker"
    return "" if min(started) >= changed_at - _TOLERANCE_SECONDS else "nginx still uses the former weights"


def _worker_start(pid: str) -> float | None:
    """Give when a worker that is not on its way out was started, in seconds since boot."""
    try:
        said = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    if "worker process" not in said or "shutting down" in said:
        return None
    return int(fields[_STARTED_AT]) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keep another change of the same file out; it would be lost when a test fails here."""
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    except OSError as error:
        raise PermanentError(f"the include file's folder can't be opened ({error.strerror})") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise TransientError("another change of the include file is under way") from None
    finally:
        os.close(folder)
