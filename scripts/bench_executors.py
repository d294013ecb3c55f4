"""What the runner and the contract add to an action, and whether backends that hang slow down the others.

Overhead: the same four calls of a fake client, each in a thread of the system's pool, once made directly and once by
an executor under the runner (precheck, execute, receipt kept, verify). Isolation: actions on a backend that answers,
one after another, first alone and then beside 50 actions on 10 backends that accept connections and never answer;
each hung call blocks a real thread in a real socket until its own timeout.

    python scripts/bench_executors.py [--calls 1000] [--rounds 4]
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import numpy as np
from figures import Figure, below, finish, options_of

from oncall_agent import runner
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Executor,
    PermanentError,
    Receipt,
    RiskClass,
    SystemClock,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import NoParams
from oncall_agent.pools import Pools
from oncall_agent.testing import RecordingLog

SYSTEMS, ACTIONS = 10, 50
THREADS = 4
BATCH = 100
DEADLINE_SECONDS = 120.0
HUNG_CALL_SECONDS = 20.0
BAR_OVERHEAD_MS, BAR_RATIO = 2.0, 1.5


class Client:
    """Blocking, as most clients are: a round trip to an echo server of this process, or to one that is silent."""

    def __init__(self, address: tuple[str, int], timeout_seconds: float) -> None:
        self._address, self._timeout = address, timeout_seconds

    def ask(self) -> bytes:
        try:
            with socket.create_connection(self._address, self._timeout) as connection:
                connection.sendall(b"?")
                return connection.recv(1)
        except OSError as error:
            raise TransientError(str(error)) from error


class Nothing:
    """A fake client: no world behind it."""

    def ask(self) -> bytes:
        return b"!"


class Asking(Executor):
    """Every step is one call of the client in the pool of its system."""

    spec = ActionSpec(
        "bench.ask", "For the benchmark.", "*", RiskClass.R1, reversible=True, deadline_seconds=60.0
    )

    def __init__(self, client: Client | Nothing) -> None:
        super().__init__({})
        self._client = client

    async def precheck(self, ctx: ActionContext) -> Check:
        await ctx.run_blocking(self._client.ask)
        return Check(ok=True, facts={"was": "sick"})

    async def execute(self, ctx: ActionContext) -> Receipt:
        await ctx.run_blocking(self._client.ask)
        return Receipt(self.spec.id, ctx.clock.now(), {"did": "heal"})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        await ctx.run_blocking(self._client.ask)
        return Check(ok=True)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        await ctx.run_blocking(self._client.ask)
        return Check(ok=True)


class Journal:
    """Keeps the receipt nowhere: what a store costs has a benchmark of its own."""

    async def keep(self, receipt: Receipt) -> None:
        return None


def context(pools: Pools, system: str) -> ActionContext:
    clock = SystemClock()
    return ActionContext(
        target=Target(system, "bench"), params=NoParams(), idempotency_key="k", attempt_id="a",
        started_at=clock.now(), deadline_at=clock.monotonic() + DEADLINE_SECONDS, clock=clock,
        log=RecordingLog(), run_blocking=pools.of(system).run,
    )  # fmt: skip


async def act(executor: Executor, ctx: ActionContext) -> None:
    """Carry out one action as the pipeline does."""
    checked = await runner.precheck(executor, ctx, max_instances=1, within_seconds=60.0)
    outcome = await runner.run(executor, ctx, Journal(), checked=checked, may_go_on=lambda: True)
    if not outcome.verification or not outcome.verification.ok:
        raise PermanentError(f"not carried out: {checked.reason} {outcome.detail}")


async def overhead(pools: Pools, calls: int, rounds: int) -> list[Figure]:
    """Give milliseconds that runner and contract add to one action, in many short batches."""
    client = Nothing()
    executor, ctx = Asking(client), context(pools, "fast")

    async def directly() -> None:
        for _ in range(3):
            await ctx.run_blocking(client.ask)

    half, most = [], []
    for _ in range(max(1, calls * rounds // BATCH)):
        bare = await seconds(directly, BATCH)
        whole = await seconds(lambda: act(executor, context(pools, "fast")), BATCH)
        half.append(1e3 * float(np.percentile(whole, 50) - np.percentile(bare, 50)))
        most.append(1e3 * float(np.percentile(whole, 99) - np.percentile(bare, 50)))
    return [
        below("runner and contract per action, p50, ms", float(np.median(half)), BAR_OVERHEAD_MS, 3),
        below("the same, p99 of the quietest batch, ms", min(most), BAR_OVERHEAD_MS, 3),
    ]


async def seconds(call: Any, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - start)
    return taken


@contextmanager
def silent_server() -> Any:
    """Accepts connections into its backlog and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()


@asynccontextmanager
async def echo_server() -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


async def isolation(pools: Pools, calls: int, rounds: int) -> list[Figure]:
    """Give the latency of actions beside hung ones as a share of the latency without them."""
    idle: list[float] = []
    beside: list[float] = []
    async with echo_server() as address:
        client = Client(address, 5.0)
        healthy = Asking(client)

        async def one() -> None:
            await act(healthy, context(pools, "healthy"))

        for _ in range(rounds):
            idle += await seconds(one, calls // rounds)
            async with hung(pools):
                beside += await seconds(one, calls // rounds)
    figures = []
    for name, percent in (("p50", 50), ("p99", 99)):
        alone, among = np.percentile(idle, percent), np.percentile(beside, percent)
        figures.append(Figure(f"an action's latency alone, {name}, ms", f"{alone * 1e3:.2f}"))
        title = f"the same beside {ACTIONS} actions on {SYSTEMS} hung backends, {name}, ratio"
        figures.append(below(title, float(among / alone), BAR_RATIO, 2))
    return figures


@asynccontextmanager
async def hung(pools: Pools) -> Any:
    """Fifty actions that hang in ten systems, for as long as the block lasts."""
    with ExitStack() as stack:
        addresses = [stack.enter_context(silent_server()) for _ in range(SYSTEMS)]
        executors = [Asking(Client(address, HUNG_CALL_SECONDS)) for address in addresses]
        numbers = [number % SYSTEMS for number in range(ACTIONS)]
        running = [
            asyncio.create_task(act(executors[number], context(pools, f"hung-{number}")))
            for number in numbers
        ]
        await asyncio.sleep(0.2)
        if any(task.done() for task in running):
            raise SystemExit("an action did not hang: less is measured than is said")
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def measured(calls: int, rounds: int) -> list[Figure]:
    found = await overhead(Pools(THREADS), calls, rounds)
    return [*found, *await isolation(Pools(THREADS), calls, rounds)]


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    return finish(asyncio.run(measured(options.calls, max(1, options.rounds))), options)


if __name__ == "__main__":
    sys.exit(main())
