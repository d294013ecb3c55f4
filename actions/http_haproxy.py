"""HAProxy as a balancer: its stats socket takes effect at once, and is forgotten when HAProxy is restarted."""

from __future__ import annotations

import asyncio
import re

from actions.http_declared import HaproxyPool
from actions.http_pools import Balancer, Member, Members, Share
from oncall_agent.contract import ActionContext, PermanentError, TransientError

_MAX_BYTES = 1_048_576
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_ABSENT = "oncall-agent-probe"
_RUNNING = "2"
_MAINTENANCE, _DRAIN = 0x01 | 0x02 | 0x04 | 0x20, 0x08 | 0x10
_REFUSALS = ("No such", "Permission denied", "Unknown command", "Backend is using", "Require", "invalid")


class Haproxy(Balancer):
    """One backend."""

    def __init__(self, pool: HaproxyPool, timeout_seconds: float) -> None:
        self._pool, self._timeout = pool, timeout_seconds

    async def read(self, ctx: ActionContext) -> Members:
        """Ask for the servers' state."""
        lines = (await self._ask(ctx, f"show servers state {self._pool.backend}")).splitlines()
        head = next((line.split()[1:] for line in lines if line.startswith("# ")), [])
        rows = [dict(zip(head, line.split(), strict=False)) for line in lines[2:] if line.strip()]
        members = [_member(row) for row in rows]
        return {member.name: member for member in members}

    async def write(self, ctx: ActionContext, name: str, share: Share, key: str) -> None:
        """Set weight and state; both are the same when set again."""
        if not _NAME.fullmatch(name):
            raise PermanentError("that is no name of a server")
        where = f"{self._pool.backend}/{name}"
        await self._ask(ctx, f"set weight {where} {share.weight}")
        await self._ask(ctx, f"set server {where} state {'drain' if share.drained else 'ready'}")

    async def version(self, ctx: ActionContext) -> str:
        """Ask for its version."""
        said = await self._ask(ctx, "show info")
        found = re.search(r"^Version: (\S+)$", said, re.MULTILINE)
        return found[1] if found else ""

    async def _ask(self, ctx: ActionContext, command: str) -> str:
        try:
            async with asyncio.timeout(max(min(self._timeout, ctx.seconds_left), 0.05)):
                said = await self._exchange(command)
        except TimeoutError:
            raise TransientError("HAProxy does not answer in time") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if isinstance(error, PermissionError):
                raise PermanentError(f"HAProxy's socket may not be used: {reason}") from error
            raise TransientError(f"HAProxy can't be reached: {reason}") from error
        first = said.strip().partition("\n")[0]
        if any(first.startswith(word) for word in _REFUSALS):
            raise PermanentError(f"HAProxy refuses: {first[:200]}")
        if not said:
            raise TransientError("HAProxy closed the connection without an answer")
        return said

    async def may_change(self, ctx: ActionContext) -> bool:
        """Say whether the socket is of level admin, by changing a server that can't exist."""
        try:
            await self._ask(ctx, f"set weight {self._pool.backend}/{_ABSENT} 1")
        except PermanentError as error:
            return "Permission denied" not in error.message
        return True

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._pool.socket.startswith("/"):
            return await asyncio.open_unix_connection(self._pool.socket)
        host, _, port = self._pool.socket.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _exchange(self, command: str) -> str:
        reader, writer = await self._connect()
        try:
            writer.write(f"{command}\n".encode())
            await writer.drain()
            said = b""
            while chunk := await reader.read(65_536):
                said += chunk
                if len(said) > _MAX_BYTES:
                    raise PermanentError("HAProxy's answer is too long")
        finally:
            writer.close()
        return said.decode(errors="replace")


def _member(row: dict[str, str]) -> Member:
    state = int(row.get("srv_admin_state", "0"))
    is_up = row.get("srv_op_state") == _RUNNING and not state & _MAINTENANCE
    share = Share(int(row.get("srv_uweight", "0")), bool(state & (_DRAIN | _MAINTENANCE)))
    return Member(row.get("srv_name", ""), share, is_up)
