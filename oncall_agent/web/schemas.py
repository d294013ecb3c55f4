"""What the API takes and gives, beside the words of the domain; the OpenAPI page is generated from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.config import JsonDict

from oncall_agent.models import AcceptedAlert, Attempt, Autonomy, Incident, Labels
from oncall_agent.settings.patterns import check_matchers

_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
MAX_FREEZE_SECONDS = 31_536_000
MAX_SILENCE_SECONDS = 31_536_000

StateWord = Literal[
    "open",
    "final",
    "queued",
    "running",
    "blocked",
    "parked",
    "awaiting_approval",
    "resolved",
    "escalated",
    "dead_lettered",
]
Text = Annotated[str, Field(max_length=500, pattern=_NO_CONTROLS)]
ClassName = Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_CONTROLS)]
TargetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
ActionId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}\.[a-z0-9_]{1,64}$")]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
Cursor = Id
"""Of the last item seen: ids sort by the moment of their making."""
Limit = Annotated[int, Field(ge=1, le=200)]
OverrideKey = Annotated[
    str, Field(pattern=r"^[^/\x00-\x1f\x7f]{1,64}/[^/\x00-\x1f\x7f]{1,128}/[^/\x00-\x1f\x7f]{1,64}$")
]
MatcherName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,256}$")]
MatcherValue = Annotated[str, Field(max_length=1024, pattern=_NO_CONTROLS)]


_NO_OTHER_KEYS: JsonDict = {"additionalProperties": False}
"""pydantic checks every key by its pattern, but its schema would let others pass."""


class _Query(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


# --- what is asked -------------------------------------------------------------------------------------------


class IncidentsQuery(_Query):
    """Filters of the list of incidents."""

    state: StateWord | None = None
    alert_class: ClassName | None = Field(None, alias="class")
    target: TargetName | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class AttemptsQuery(_Query):
    """Filters of the ledger."""

    action: ActionId | None = None
    incident_id: Id | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class ApprovalsQuery(_Query):
    """Whether answered questions are wanted too."""

    pending: Literal["true", "false"] = "true"


class AuditQuery(_Query):
    """How many rows."""

    limit: Limit = 50


class SilenceBody(_Body):
    """A new silence: alerts whose labels match are accepted, stored and suppressed."""

    matchers: dict[MatcherName, MatcherValue] = Field(
        min_length=1, max_length=16, json_schema_extra=_NO_OTHER_KEYS
    )
    """Label -> value, all of them; `~regex` matches a regular expression over the whole value."""
    seconds: float = Field(gt=0, le=MAX_SILENCE_SECONDS, allow_inf_nan=False)
    """How long it stands, from now."""
    comment: Text = ""

    @field_validator("matchers")
    @classmethod
    def _patterns_compile(cls, matchers: dict[str, str]) -> dict[str, str]:
        check_matchers(matchers)
        return matchers


class ControlBody(_Body):
    """What to change of the switches; what is absent or null stays as it is."""

    paused: bool | None = None
    """The kill switch."""
    draining: bool | None = None
    """Finish what runs, take up nothing new."""
    freeze_seconds: float | None = Field(None, ge=0, le=MAX_FREEZE_SECONDS, allow_inf_nan=False)
    """Freeze changes for so long from now; 0 lifts the freeze (admin)."""
    reason: Text = ""
    """For the pause or the freeze; kept in the audit log."""
    overrides: dict[OverrideKey, Autonomy | None] = Field(
        {}, max_length=100, json_schema_extra=_NO_OTHER_KEYS
    )
    """`class/action/target_class` (each may be `*`) -> autonomy level, null takes it away (admin)."""
    add_silences: list[SilenceBody] = Field([], max_length=50)
    remove_silences: list[Id] = Field([], max_length=50)
    """Ids of silences."""


# --- what is answered ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorInside:
    """What went wrong: `code` for programs, `message` for people, `detail` with the field or the wait."""

    code: str
    message: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The one shape of every error."""

    error: ErrorInside


@dataclass(frozen=True, slots=True)
class AcceptedBody:
    """Every alert of the request is on disk, and this is what became of each."""

    accepted: int
    alerts: tuple[AcceptedAlert, ...]


@dataclass(frozen=True, slots=True)
class HealthBody:
    """The process answers."""

    status: Literal["ok"]
    version: str


@dataclass(frozen=True, slots=True)
class ReadyBody:
    """Part -> `ok`, or what is wrong with it."""

    ok: bool
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IncidentsBody:
    """One page of incidents; `next_cursor` asks for the page after it, null at the end."""

    items: tuple[Incident, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class AttemptsBody:
    """One page of the ledger; `next_cursor` asks for the page after it, null at the end."""

    items: tuple[Attempt, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ItemsBody:
    """A list of objects."""

    items: tuple[Mapping[str, Any], ...]


# --- what a sender posts -----------------------------------------------------------------------------------------


class AlertmanagerAlert(BaseModel):
    """One alert of Alertmanager's webhook; for documentation, the parser is `sources.alertmanager`."""

    status: Literal["firing", "resolved"]
    labels: Labels = Field(description="`alertname` is required; a value has at most 2048 characters")
    annotations: Labels | None = None
    startsAt: str = Field(json_schema_extra={"format": "date-time"})  # noqa: N815 - the sender's name
    endsAt: str | None = None  # noqa: N815
    generatorURL: str | None = None  # noqa: N815
    fingerprint: str | None = Field(None, max_length=128)


class AlertmanagerBody(BaseModel):
    """Alertmanager's webhook, version 4; unknown keys are ignored."""

    alerts: list[AlertmanagerAlert]
    groupKey: str | None = None  # noqa: N815
