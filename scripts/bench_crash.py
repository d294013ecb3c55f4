"""Kill -9 at random moments under load, again and again: no alert vanishes, no action happens twice.

A daemon as an operator runs it, on SQLite; a sender that repeats until it gets 202, as Alertmanager does; a target
that counts every effect under its Idempotency-Key and answers repeats like any first call. After each kill the daemon
is started again on what it left. At the end every alert must be accounted for, and no attempt may have had more than
one effect.

    python scripts/bench_crash.py [--kills 200] [--seed 1]
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import fleet
import running
from figures import Figure, equal, finish, options_of
from running import HOST

TARGETS = 300
RATE = 120.0
SENDERS = 8
_LONGEST_LIFE_SECONDS = 1.2
_EARLY_SHARE, _LONGEST_START_SECONDS = 0.1, 0.8


class Sender:
    """Posts numbered alerts at a steady rate and repeats each until it is acknowledged."""

    def __init__(self, port: int) -> None:
        self.port, self.number, self.acknowledged, self.repeats, self.stopping = port, 0, 0, 0, False

    async def run(self) -> None:
        await asyncio.gather(*(self._lane() for _ in range(SENDERS)))

    async def _lane(self) -> None:
        while not self.stopping:
            self.number += 1
            request = fleet.alert(self.number, TARGETS)
            while not await self._send(request):
                self.repeats += 1
                await asyncio.sleep(0.02)
            self.acknowledged += 1
            await asyncio.sleep(SENDERS / RATE)

    async def _send(self, request: bytes) -> bool:
        try:
            async with asyncio.timeout(3.0):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    writer.write(request)
                    return (await reader.readline()).startswith(b"HTTP/1.1 202")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


class Tormentor:
    """Starts a daemon, kills it at random moments and starts it again."""

    def __init__(self, file: Path, rng: random.Random) -> None:
        self.port = running.free_port()
        self.early = 0
        self._file, self._rng = file, rng
        self._daemon: running.Process | None = None

    async def run(self, kills: int, sender: Sender) -> None:
        await self._start()
        sending = asyncio.create_task(sender.run())
        for done in range(1, kills + 1):
            await asyncio.sleep(self._rng.uniform(0.0, _LONGEST_LIFE_SECONDS))
            self.kill()
            await self._start_or_kill_early()
            if done % 20 == 0:
                print(
                    f"{done} kills, {sender.acknowledged} acknowledged, {sender.repeats} repeats", flush=True
                )
        await asyncio.to_thread(running.listening, self.port)
        sender.stopping = True
        await sending

    def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    async def _start(self) -> None:
        self._daemon = running.spawn_daemon(self._file, self.port)
        await asyncio.to_thread(running.listening, self.port)

    async def _start_or_kill_early(self) -> None:
        """Mostly wait until it serves; sometimes the next kill comes while it still starts."""
        if self._rng.random() >= _EARLY_SHARE:
            return await self._start()
        self.early += 1
        self._daemon = running.spawn_daemon(self._file, self.port)
        return await asyncio.sleep(self._rng.uniform(0.0, _LONGEST_START_SECONDS))


def settled(port: int, seconds: float) -> dict[str, Any]:
    """Wait until nothing is open; gives the terms of the conservation equation."""
    end = time.monotonic() + seconds
    while True:
        balance: dict[str, Any] = running.read(port, "/api/v1/conservation")
        if balance["open"] == 0 or time.monotonic() > end:
            return balance
        time.sleep(0.1)


def measure(kills: int, seed: int) -> list[Figure]:
    with running.folder() as folder, fleet.serving_targets() as targets:
        file = fleet.configure(
            folder,
            targets,
            TARGETS,
            idempotent=False,  # the daemon itself must never send a call again
            within_seconds=0.0,
            grouping={"labels": ["run"]},
            workers={"max_claims": 50},
        )
        tormentor = Tormentor(file, random.Random(seed))
        sender = Sender(tormentor.port)
        try:
            asyncio.run(tormentor.run(kills, sender))
            balance = settled(tormentor.port, 120)
            effects = running.read(targets, "/effects")
            audit = running.read(tormentor.port, "/api/v1/audit/verify")
        finally:
            tormentor.kill()
    killed = Figure("kills (while starting)", f"{kills} ({tormentor.early})")
    return [
        killed,
        *_kept(sender, balance),
        *_done(effects),
        equal("audit log", "whole" if audit["ok"] else "BROKEN", "whole"),
    ]


def _kept(sender: Sender, balance: dict[str, Any]) -> list[Figure]:
    kept = sum(balance[term] for term in ("open", "resolved", "escalated", "dead_lettered"))
    return [
        Figure("alerts acknowledged with 202", f"{sender.acknowledged:,}", "> 0", sender.acknowledged > 0),
        Figure("posts that had to be repeated", f"{sender.repeats:,}"),
        equal("alerts in incidents, of those acknowledged", kept, sender.acknowledged),
        equal("still open", balance["open"], 0),
        Figure("resolved", f"{balance['resolved']:,}", "> 0", balance["resolved"] > 0),
        Figure("escalated", f"{balance['escalated']:,}"),
        Figure("duplicates told apart", f"{sum(balance['suppressed'].values()):,}"),
        equal("conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced"),
    ]


def _done(effects: dict[str, int]) -> list[Figure]:
    twice = sum(count > 1 or not key for key, count in effects.items())
    return [
        Figure("attempts that had an effect", f"{len(effects):,}", "> 0", len(effects) > 0),
        equal("attempts with more than one effect", twice, 0),
    ]


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return finish(measure(options.kills, options.seed), options)


if __name__ == "__main__":
    sys.exit(main())
