"""The operator's limits once more, inside the transaction that begins an attempt: two workers can't both pass."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import bindparam, func, or_, select

from oncall_agent.models import Attempt, Candidate, Refusal, RefusalReason
from oncall_agent.store.schema import attempts, words
from oncall_agent.store.statement import Statement, Tx
from oncall_agent.store.usage import Usage
from oncall_agent.store.values import BeginLimits, Change

_T = attempts.c
_LATEST = Statement(
    select(func.max(_T.started_at)).where(
        _T.target == bindparam("on"),
        _T.started_at > bindparam("since"),
        _T.action == bindparam("action"),
        # Attempts that touched nothing start no cooldown.
        or_(_T.status.is_(None), _T.status.not_in(words("refused", "planned"))),
    )
)
_SERIAL = "SELECT pg_advisory_xact_lock(7231001)"


@dataclass(frozen=True, slots=True)
class Limits:
    """Cooldown and rates of attempts."""

    usage: Usage
    is_shared: bool
    """Whether other processes write to the same database."""

    def refusal(self, tx: Tx, change: Change) -> Refusal | None:
        """Say why the attempt of a change may not begin; None if it may or if there is none."""
        attempt, limits = change.begin, change.limits
        if attempt is None or limits is None:
            return None
        if self.is_shared:
            tx.text(_SERIAL)
        objection = self._cooling_down(tx, attempt, limits) or self._too_often(tx, attempt, limits)
        return None if objection is None else Refusal(_candidate(change, attempt), *objection)

    def _cooling_down(
        self, tx: Tx, attempt: Attempt, limits: BeginLimits
    ) -> tuple[RefusalReason, str] | None:
        now, wanted = attempt.started_at, limits.cooldown_seconds
        row = tx.row(_LATEST, on=attempt.target, action=attempt.action, since=now - wanted)
        if row is None or row[0] is None:
            return None
        return RefusalReason.COOLDOWN, f"last attempt {now - row[0]:.0f} s ago, {wanted:g} s apart are wanted"

    def _too_often(self, tx: Tx, attempt: Attempt, limits: BeginLimits) -> tuple[RefusalReason, str] | None:
        actions, services = self.usage.counts(tx, [attempt.service], attempt.started_at)
        of_action, on_service = actions.get(attempt.action, 0), services.get(attempt.service, 0)
        if of_action >= limits.rate_per_action:
            return RefusalReason.RATE_ACTION, f"{of_action} attempts of {attempt.action} lately"
        if on_service >= limits.rate_per_service:
            return RefusalReason.RATE_SERVICE, f"{on_service} attempts on {attempt.service} lately"
        return None


def _candidate(change: Change, attempt: Attempt) -> Candidate:
    if change.decision is not None:
        return change.decision.candidate
    return Candidate(attempt.action, attempt.target, attempt.params)
