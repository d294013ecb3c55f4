"""Reads a target's health through its configured probes; read-only, bounded in time, never raises."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from oncall_agent.contract import Clock, Probe, Prober, Reading, Target, TransientError
from oncall_agent.contract.secret import redact
from oncall_agent.models import Measurement, Signals
from oncall_agent.pools import Pools
from oncall_agent.rules import health
from oncall_agent.settings.model import HealthSettings

PROBE_SECONDS = 5.0
_CACHED_PARAMS = 4096


class Probes:
    """Measures targets with the probers that are open."""

    def __init__(
        self, probers: Mapping[str, Prober], *, pools: Pools, clock: Clock, weights: HealthSettings
    ) -> None:
        self._probers, self._pools, self._clock, self._weights = probers, pools, clock, weights
        self._params: dict[int, Any] = {}

    async def measure(self, target: Target | None) -> Measurement:
        """Read all probes of a target at once; score and verdict are None when none could be read."""
        now = self._clock.now()
        if target is None or not target.probes:
            return Measurement(at=now, score=None, healthy=None)
        if len(target.probes) == 1:
            answers = [await self._read(target, target.probes[0])]
        else:
            answers = await asyncio.gather(*(self._read(target, probe) for probe in target.probes))
        detail: dict[str, Any] = {}
        readings: list[Reading] = []
        for number, (probe, answer) in enumerate(zip(target.probes, answers, strict=True)):
            name = probe.kind if probe.kind not in detail else f"{probe.kind}.{number}"
            if isinstance(answer, str):
                detail[name] = {"blind": answer}
            else:
                readings.append(answer)
                detail[name] = {
                    **{k: v for k, v in asdict(answer.signals).items() if v is not None},
                    **answer.facts,
                }
        return self._merged(now, target, readings, detail)

    def _merged(
        self, now: float, target: Target, readings: list[Reading], detail: dict[str, Any]
    ) -> Measurement:
        signals = health.merge([reading.signals for reading in readings]) if readings else Signals()
        score = health.score(signals, self._weights)
        # Blind on one probe is not healthy: what it would have said is unknown.
        blind = score is None or len(readings) < len(target.probes)
        sick = score is not None and score < target.healthy_score
        healthy = False if sick else None if blind else True
        return Measurement(at=now, score=score, healthy=healthy, signals=signals, detail=detail)

    async def _read(self, target: Target, probe: Probe) -> Reading | str:
        prober = self._probers.get(probe.kind)
        if prober is None:
            return f"there is no prober {probe.kind!r}"
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await prober.read(
                    target,
                    self._typed(prober, probe),
                    # Shorter than ours: a target that hangs is a reading (down), not blindness.
                    timeout_seconds=0.8 * PROBE_SECONDS,
                    clock=self._clock,
                    run_blocking=self._pools.of(probe.kind).run,
                )
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS:g} s"
        except TransientError as error:
            return redact(error.message)[:300]
        except Exception as error:  # noqa: BLE001 - a broken prober blinds itself only
            return redact(f"{type(error).__name__}: {error}")[:300]

    def _typed(self, prober: Prober, probe: Probe) -> Any:
        # Probes live as long as the configuration, so their identity is a safe key.
        found = self._params.get(id(probe))
        if found is None:
            found = prober.params.model_validate(dict(probe.params))
            if len(self._params) < _CACHED_PARAMS:
                self._params[id(probe)] = found
        return found
