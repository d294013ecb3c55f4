"""The prober of systemd units: state, crash loops, and memory against the unit's own limit."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache

from actions.systemd import read_unit
from actions.systemd_bus import Bus, MissingUnitError
from actions.systemd_units import Unit, judge, name_of
from oncall_agent.contract import Clock, PermanentError, Prober, Reading, Signals, Target, TransientError
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

_YOUNG_SECONDS = 5.0


class SystemdProber(Prober):
    """A unit that is not active, or that systemd keeps restarting, is down; a bus that is away is blindness."""

    kind = "systemd"

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._bus = Bus(settings)
        self._restarts: LRUCache[str, int] = LRUCache(4096)

    async def __aexit__(self, *_: object) -> None:
        self._bus.close()

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Read the unit's properties once."""
        try:
            unit = await read_unit(self._bus, name_of(target), timeout_seconds)
        except MissingUnitError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error
        reason = judge(unit).reason or self._crashing(unit, clock.now())
        if reason:
            return Reading(Signals(up=False), {**unit.as_facts(), "reason": reason})
        return Reading(Signals(up=True, memory=_memory_share(unit)), unit.as_facts())

    def _crashing(self, unit: Unit, now: float) -> str:
        """Tell a unit between two crashes from one that runs."""
        last = self._restarts.get(unit.id)
        self._restarts[unit.id] = unit.restarts
        is_young = unit.restarts > 0 and now - unit.began_at < _YOUNG_SECONDS
        has_crashed = last is not None and unit.restarts > last
        return "the unit keeps crashing" if has_crashed or is_young else ""


def _memory_share(unit: Unit) -> float | None:
    if unit.memory_bytes is None or unit.memory_limit_bytes is None:
        return None
    return min(1.0, unit.memory_bytes / unit.memory_limit_bytes)
