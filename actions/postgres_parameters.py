"""A parameter of the server that has to be other than it is: set, reloaded, and taken back."""

from __future__ import annotations

import asyncio
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.postgres_client import Conversation, Row
from actions.postgres_executor import PostgresExecutor, SettledParams, protected
from actions.postgres_settings import KIND, Bounds, PostgresSettings
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject

_RELOADABLE = ("sighup", "user", "superuser")
_OVERRIDDEN = frozenset(
    [
        "command line",
        "environment variable",
        "override",
        "global",
        "database",
        "user",
        "database user",
        "client",
        "session",
    ]
)
_PRIVILEGES_SINCE = 15
_AUTO = "postgresql.auto.conf"
_UNDO_SECONDS = 10.0
_PARAMETER = """
SELECT name, setting, vartype, context, source, coalesce(unit, '') AS unit, pending_restart,
  min_val::float8 AS minimum, max_val::float8 AS maximum, coalesce(enumvals, '{}') AS words,
  coalesce(sourcefile LIKE '%' || $2, false) AS is_auto,
  pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') AS sees_files,
  has_function_privilege('pg_reload_conf()', 'EXECUTE') AS may_reload
FROM pg_settings WHERE name = $1
"""
_MAY_ALTER = "SELECT has_parameter_privilege($1, 'ALTER SYSTEM')"
_IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
_SET = "SELECT format('ALTER SYSTEM SET %I = %L', $1::text, $2::text)"
_RESET = "SELECT format('ALTER SYSTEM RESET %I', $1::text)"


class ParameterParams(SettledParams):
    """Which parameter to set to what."""

    name: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$")
    """It must stand in `backends.postgres.parameters`."""
    value: int | float | str = Field(union_mode="left_to_right")
    """A number in the parameter's own unit, or one of its words."""
    hold_seconds: float = Field(1.0, ge=0, le=300)
    """The value must stay for that long."""


class SetParam(PostgresExecutor):
    """Sets a parameter for the whole server and reloads its configuration."""

    is_server_wide = True
    spec = ActionSpec(
        id="postgres.set_param",
        summary="Set a server parameter from the allow-list within bounds, and reload.",
        target_kind=KIND,
        params=ParameterParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.1,
        family="scale",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is not allowed, out of bounds, not reloadable, overridden elsewhere, or so already."""
        async with self.talk(ctx) as db:
            found = await parameter_of(db, ctx.params.name)
        reason = protected(ctx) or refusal(found, ctx.params, self.pg.settings)
        if not reason and found is not None and is_value(found, ctx.params.value):
            reason = f"{ctx.params.name} is {found['setting']} already"
        return Check(ok=not reason, reason=reason, facts=_facts(found, ctx.params) if found else {})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it once and reload."""
        async with self.talk(ctx) as db:
            found = await parameter_of(db, ctx.params.name)
            reason = refusal(found, ctx.params, self.pg.settings)
            if reason or found is None:
                raise PermanentError(reason)
            facts = self._before.get(ctx.idempotency_key) or _facts(found, ctx.params)
            if ctx.dry_run:
                return self.receipt(ctx, facts)
            self._before[ctx.idempotency_key] = facts
            if not is_value(found, ctx.params.value):
                try:
                    await set_parameter(db, ctx.params.name, text_of(ctx.params.value))
                except ActionError as error:
                    error.receipt_facts = facts
                    raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether a new session has the value and no restart is pending."""
        return await self.until(ctx, lambda db: _look(db, ctx.params.name, text_of(ctx.params.value)))

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what stood in the server's own file before, or take our line out of it."""
        name, before = ctx.params.name, receipt.facts.get("before")
        if before is None:
            return Check(ok=False, reason="the receipt does not say what was before")
        async with self.talk(ctx) as db:
            await set_parameter(db, name, before["setting"] if before["is_auto"] else None)

        async def sample() -> Check:
            # A new session each time: one that is open may read the file a moment later.
            async with self.talk(ctx) as fresh:
                return await _look(fresh, name, before["setting"])

        return await held(ctx, sample, hold_seconds=0.0, within_seconds=_UNDO_SECONDS, interval_seconds=0.05)


async def parameter_of(db: Conversation, name: str) -> Row | None:
    """Read what the server says of a parameter and what we may do with it; None when it knows none."""
    found = await db.row(_PARAMETER, name, _AUTO)
    if found is None:
        return None
    may = await db.value(*((_MAY_ALTER, name) if db.version >= _PRIVILEGES_SINCE else (_IS_SUPERUSER,)))
    return {**found, "may_alter": bool(may)}


def refusal(found: JsonObject | None, params: ParameterParams, settings: PostgresSettings) -> str:
    """Give the reason why a parameter may not be set so, or an empty text."""
    bounds = settings.parameters.get(params.name)
    if bounds is None:
        return f"{params.name} is not on the list of backends.postgres.parameters"
    if found is None:
        return f"the server knows no parameter {params.name}"
    if found["context"] not in _RELOADABLE:
        return f"{params.name} can't be changed by a reload ({found['context']})"
    if found["source"] in _OVERRIDDEN:
        return f"{params.name} is set elsewhere ({found['source']}): the file would not decide"
    if not (found["may_alter"] and found["may_reload"] and found["sees_files"]):
        return f"our role may not set {params.name}: see the grants of postgres.set_param"
    return out_of_bounds(found, params.value, bounds)


def out_of_bounds(found: JsonObject, value: float | str, bounds: Bounds) -> str:
    """Give the reason why a value is not allowed, or an empty text."""
    if bounds.values:
        return (
            "" if text_of(value) in bounds.values else f"{text_of(value)!r} is not one of the values allowed"
        )
    if isinstance(value, str):
        return "a number is needed"
    if found["vartype"] not in ("integer", "real"):
        return f"{found['name']} is no number: give its values in the settings"
    if found["vartype"] == "integer" and int(value) != value:
        return "a whole number is needed"
    least, most = max(bounds.minimum or 0.0, found["minimum"]), min(bounds.maximum or 0.0, found["maximum"])
    return (
        ""
        if least <= value <= most
        else f"{text_of(value)} is outside {least:g}..{most:g} {found['unit']}".strip()
    )


def is_value(found: JsonObject, value: float | str) -> bool:
    """Say whether the parameter has that value."""
    if found["vartype"] in ("integer", "real"):
        try:
            return float(found["setting"]) == float(value)
        except ValueError:
            return False
    return bool(found["setting"] == text_of(value))


def text_of(value: float | str) -> str:
    """Give a value as the server's file has it."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def _facts(found: JsonObject, params: ParameterParams) -> dict[str, Any]:
    before = {key: found[key] for key in ("setting", "is_auto", "source", "unit")}
    return {"name": params.name, "before": before, "wanted": text_of(params.value)}


async def set_parameter(db: Conversation, name: str, value: str | None) -> None:
    """Write a parameter into the server's own file, or take it out (None), and reload."""
    statement = await db.value(_RESET, name) if value is None else await db.value(_SET, name, value)
    # The file is rewritten and then read: nothing may come in between.
    await asyncio.shield(_both(db, statement))


async def _both(db: Conversation, statement: str) -> None:
    await db.run(statement)
    await db.value("SELECT pg_reload_conf()")


async def _look(db: Conversation, name: str, wanted: str) -> Check:
    found = await db.row(_PARAMETER, name, _AUTO)
    if found is None:
        return Check(ok=False, reason=f"the server knows no parameter {name}")
    facts = {"setting": found["setting"], "unit": found["unit"]}
    if not is_value(found, wanted):
        return Check(ok=False, reason=f"{name} is {found['setting']}, not {wanted}", facts=facts)
    if found["pending_restart"]:
        return Check(ok=False, reason=f"{name} takes effect only after a restart", facts=facts)
    return Check(ok=True, facts=facts)
