"""A global variable that has to be other than it is: set, read back, and taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mysql_client import Conversation
from actions.mysql_dialect import variable_privilege
from actions.mysql_executor import MySQLExecutor, SettledParams, protected
from actions.mysql_sessions import lacking
from actions.mysql_settings import KIND, MySQLSettings, VariableBounds
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject


class VariableParams(SettledParams):
    """Which variable to set to what."""

    name: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")
    """It must stand in `backends.mysql.variables`."""
    value: int | float | str = Field(union_mode="left_to_right")
    """A number in the variable's own unit, or one of its words as the server shows it."""
    hold_seconds: float = Field(1.0, ge=0, le=300)
    """The value must stay for that long."""


@dataclass(frozen=True, slots=True)
class Variable:
    """What the server says of a global variable."""

    name: str
    value: str
    is_dynamic: bool
    minimum: float | None
    maximum: float | None

    @property
    def is_number(self) -> bool:
        """Whether its value is a number."""
        return number_of(self.value) is not None


class SetGlobal(MySQLExecutor):
    """Sets a global variable until the server's next start."""

    spec = ActionSpec(
        id="mysql.set_global",
        summary="Set a global variable from the allow-list within bounds, until the server's next start.",
        target_kind=KIND,
        params=VariableParams,
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
        """Refuse what is not allowed, out of bounds, not dynamic, or so already."""
        variable, lack = await self.ask(ctx, lambda db: self._read(db, ctx.params))
        reason = protected(ctx) or refusal(variable, ctx.params, self.mysql.settings) or lack
        if not reason and variable is not None and is_value(variable, ctx.params.value):
            reason = f"{ctx.params.name} is {variable.value} already"
        facts = {"name": ctx.params.name, "before": variable.value} if variable else {}
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it once."""
        variable, _ = await self.ask(ctx, lambda db: self._read(db, ctx.params))
        reason = refusal(variable, ctx.params, self.mysql.settings)
        if reason or variable is None:
            raise PermanentError(reason)
        facts = {"name": ctx.params.name, "before": variable.value}
        facts = self._before.get(ctx.idempotency_key) or facts
        if ctx.dry_run:
            return self.receipt(ctx, facts)
        self._before[ctx.idempotency_key] = facts
        if not is_value(variable, ctx.params.value):
            try:
                await self.ask(ctx, lambda db: set_variable(db, ctx.params.name, ctx.params.value))
            except ActionError as error:
                error.receipt_facts = facts
                raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the server has the value."""
        return await self.until(ctx, lambda db: _look(db, ctx.params.name, ctx.params.value))

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what was before."""
        before = receipt.facts.get("before")
        if before is None:
            return Check(ok=False, reason="the receipt does not say what was before")

        def undo(db: Conversation) -> Check:
            set_variable(db, ctx.params.name, before)
            return _look(db, ctx.params.name, before)

        return await self.ask(ctx, undo)

    def _read(self, db: Conversation, params: VariableParams) -> tuple[Variable | None, str]:
        return variable_of(db, params.name), lacking(db, (variable_privilege(params.name, db.dialect),))


def variable_of(db: Conversation, name: str) -> Variable | None:
    """Read what the server says of a global variable; None when it knows none."""
    row = db.row(db.dialect.variable, name)
    if row is None or not row["is_global"]:
        return None
    return Variable(
        name=name,
        value=str(row["value"]),
        is_dynamic=bool(row["is_dynamic"]),
        minimum=number_of(row["minimum"]),
        maximum=number_of(row["maximum"]),
    )


def set_variable(db: Conversation, name: str, value: float | str) -> None:
    """Set a global variable; its name was found in the server's own catalogue."""
    number = number_of(value)
    wanted = value if number is None else int(number) if number == int(number) else number
    db.run(f"SET GLOBAL `{name}` = %s", wanted)


def refusal(variable: Variable | None, params: VariableParams, settings: MySQLSettings) -> str:
    """Give the reason why a variable may not be set so, or an empty text."""
    bounds = settings.variables.get(params.name)
    if bounds is None:
        return f"{params.name} is not on the list of backends.mysql.variables"
    if variable is None:
        return f"the server knows no global variable {params.name}"
    if not variable.is_dynamic:
        return f"{params.name} can't be changed while the server runs"
    return out_of_bounds(variable, params.value, bounds)


def out_of_bounds(variable: Variable, value: float | str, bounds: VariableBounds) -> str:
    """Give the reason why a value is not allowed, or an empty text."""
    if bounds.values:
        return "" if str(value) in bounds.values else f"{str(value)!r} is not one of the values allowed"
    if isinstance(value, str):
        return "a number is needed"
    if not variable.is_number:
        return f"{variable.name} is no number: give its values in the settings"
    least = max(one for one in (bounds.minimum, variable.minimum) if one is not None)
    most = min(one for one in (bounds.maximum, variable.maximum) if one is not None)
    return "" if least <= value <= most else f"{value:g} is outside {least:g}..{most:g}"


def is_value(variable: Variable, value: float | str) -> bool:
    """Say whether the variable has that value."""
    now, wanted = number_of(variable.value), number_of(value)
    if now is not None and wanted is not None:
        return now == wanted
    return variable.value.upper() == str(value).upper()


def number_of(value: object) -> float | None:
    """Give a number as a number, and None for anything else."""
    try:
        return float(str(value))
    except ValueError:
        return None


def _look(db: Conversation, name: str, wanted: float | str) -> Check:
    variable = variable_of(db, name)
    if variable is None:
        return Check(ok=False, reason=f"the server knows no global variable {name}")
    is_so = is_value(variable, wanted)
    reason = "" if is_so else f"{name} is {variable.value}, not {wanted}"
    return Check(ok=is_so, reason=reason, facts={"value": variable.value})
