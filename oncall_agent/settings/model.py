"""The configuration as frozen values: every key with its unit, its default and the reason for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from oncall_agent.contract.secret import SecretRef
from oncall_agent.models import Autonomy

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]


class Group(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Token(Group):
    """Who may call the API."""

    name: Name
    """Recorded as the identity behind an approval, a pause, a silence."""
    role: Literal["viewer", "operator", "admin"] = "viewer"
    """viewer reads; operator also approves, denies, pauses; admin also lifts freezes and sets overrides."""
    secret: SecretRef
    """The bearer token, by reference."""


class ServerSettings(Group):
    """The HTTP side."""

    host: str = "127.0.0.1"
    """Loopback by default: anything else needs `tokens` and authenticated sources."""
    port: int = Field(8420, ge=0, le=65535)
    """0 lets the system choose (tests)."""
    tokens: tuple[Token, ...] = ()
    """Without any, the API is open to this machine and two-person approvals are not possible."""
    max_body_bytes: int = Field(1_048_576, ge=1024, le=67_108_864)
    """Larger webhook bodies get 413 before they are read."""
    max_depth: int = Field(32, ge=2, le=200)
    """Deeper JSON gets 400: no sender needs it."""
    max_labels: int = Field(128, ge=1, le=1024)
    """Labels or annotations per alert."""
    max_alerts: int = Field(2_000, ge=1, le=100_000)
    """Alerts per request."""
    max_waiting_requests: int = Field(1_024, ge=1, le=65_536)
    """Webhook requests waiting for the disk at once; more get 503 with Retry-After."""
    max_streams: int = Field(64, ge=1, le=4096)
    """Open server-sent-event streams."""


class NoAuth(Group):
    """Nobody is asked: only accepted on loopback."""

    kind: Literal["none"] = "none"
    """Default; every other kind asks for something."""


class BearerAuth(Group):
    """`Authorization: Bearer ...`."""

    kind: Literal["bearer"]
    """Chooses this way."""
    token: SecretRef
    """The token that the sender presents, by reference."""


class BasicAuth(Group):
    """`Authorization: Basic ...`."""

    kind: Literal["basic"]
    """Chooses this way."""
    username: str = Field(min_length=1, max_length=128, pattern=r"^[^:]+$")
    """As the sender presents it; no colon."""
    password: SecretRef
    """By reference."""


class HmacAuth(Group):
    """Signature of the body by HMAC-SHA256 in hexadecimal, with or without a prefix such as `sha256=`."""

    kind: Literal["hmac"]
    """Chooses this way."""
    secret: SecretRef
    """The key that both sides know, by reference."""
    header: str = Field("X-Signature-256", pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The header that carries the signature."""
    timestamp_header: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    """If given, the signature is over `timestamp:body` and the time must be inside `window_seconds`."""
    window_seconds: Seconds = 300.0
    """How far the timestamp may be off: bounds replay."""


Auth = Annotated[NoAuth | BearerAuth | BasicAuth | HmacAuth, Field(discriminator="kind")]


class AlertmanagerSource(Group):
    """Alertmanager's webhook, version 4."""

    kind: Literal["alertmanager"] = "alertmanager"
    """Chooses this form; nothing else needs to be set for it."""
    auth: Auth = NoAuth()
    """Who may post; needed when `server.host` is not loopback."""


class GenericMapping(Group):
    """Where a generic body keeps the fields of an alert: JMESPath expressions, evaluated on each alert."""

    alerts: str = "[@]"
    """Gives the list of alerts from the whole body; the default takes the body as one alert."""
    name: str = "name"
    """Alert name: text, required."""
    status: str | None = "status"
    """Text; see `resolved_values`."""
    fingerprint: str | None = "fingerprint"
    """Text; if absent or null the hash of source, name and labels."""
    starts_at: str | None = "starts_at"
    """RFC 3339 text or epoch seconds (or milliseconds); if absent or null the time of receipt, and then a
    repeat can't be told from a new alert unless `fingerprint` is given and still open."""
    ends_at: str | None = None
    """As `starts_at`; absent or null: not known."""
    severity: str | None = "severity"
    """critical, error, warning or info; anything not understood counts as warning."""
    labels: str | None = "labels"
    """An object; values are made text."""
    annotations: str | None = "annotations"
    """An object for people to read; never used to find a target or a runbook."""
    link: str | None = None
    """Address of a page about the alert; http or https only."""
    resolved_values: tuple[str, ...] = ("resolved", "ok", "closed", "recovered")
    """Values of `status` (case ignored) that mean that the alert is over."""


class GenericSource(Group):
    """Any JSON body, mapped field by field."""

    kind: Literal["generic"] = "generic"
    """Chooses this form."""
    auth: Auth = NoAuth()
    """Who may post; needed when `server.host` is not loopback."""
    mapping: GenericMapping = GenericMapping()
    """Where the fields of an alert stand in the body."""


Source = Annotated[AlertmanagerSource | GenericSource, Field(discriminator="kind")]


class StoreSettings(Group):
    """Where incidents live."""

    url: str = "sqlite:///oncall-agent.db"
    """SQLAlchemy URL: `sqlite:///path` or `postgresql+psycopg2://...`. A relative path is relative to the working
    directory. Put a password into the environment: `ONCALL_AGENT__STORE__URL`."""
    max_open_incidents: int = Field(100_000, ge=1, le=10_000_000)
    """At this bound webhooks get 503 with Retry-After; senders repeat."""
    max_waiting_writes: int = Field(10_000, ge=10, le=1_000_000)
    """Writes queued in memory for the one writer; none of them is acknowledged yet."""
    retention_days: int = Field(90, ge=1, le=3650)
    """Final incidents older than that are deleted; their counts stay in the conservation equation."""


class AutonomyRule(Group):
    """One grant; the first matching rule wins. `*` matches everything."""

    alert_class: str = Field("*", alias="class")
    """Class that the first matching runbook gives to an alert."""
    action: str = "*"
    """Action id."""
    target_class: str = "*"
    """The target's own `target_class`."""
    level: Autonomy
    """observe < shadow < suggest < approve < auto."""

    model_config = ConfigDict(populate_by_name=True)


class AutonomySettings(Group):
    """How far the daemon may go."""

    default: Autonomy = Autonomy.SHADOW
    """Decides and records what it would do, touches nothing."""
    rules: tuple[AutonomyRule, ...] = ()
    """Grants, most special first: the first that matches wins."""


class FreezeWindow(Group):
    """A change freeze that returns every week or stands once."""

    name: Name
    """Said with every refusal that the window causes."""
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    """Days on which a weekly window starts; empty with `starts_at`/`ends_at` given."""
    start: str | None = Field(None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    """Time of day, HH:MM in `timezone`."""
    end: str | None = Field(None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    """If not after `start`, the window ends on the next day."""
    timezone: str = "UTC"
    """IANA name."""
    starts_at: float | str | None = None
    """RFC 3339 with offset or epoch seconds, for a window that stands once."""
    ends_at: float | str | None = None
    """RFC 3339 or epoch seconds, for a window that stands once."""


class StormSettings(Group):
    """The more incidents are open at once, the less is automated."""

    reversible_only_at: int = Field(20, ge=1)
    """From this many open incidents on, only actions of class R1 are permitted."""
    stop_at: int = Field(100, ge=1)
    """From this many on, nothing is: people are paged."""


class FlapSettings(Group):
    """An incident that keeps coming back is a matter for people."""

    count: int = Field(4, ge=2, le=100)
    """Opened this often within the window: no automation; further openings are suppressed."""
    window_seconds: Seconds = 3600.0
    """How far back openings are counted."""


class GuardSettings(Group):
    """Limits that no policy can raise."""

    max_instances: int = Field(1, ge=0)
    """Blast radius: instances that one attempt may touch."""
    rate_per_action: int = Field(20, ge=0)
    """Attempts of one action within `rate_window_seconds`, on all targets."""
    rate_per_service: int = Field(10, ge=0)
    """Attempts on one service within `rate_window_seconds`."""
    rate_window_seconds: Seconds = 3600.0
    """How far back attempts are counted for both rates."""
    cooldown_seconds: dict[str, Seconds] = {}
    """Action id -> least time between two attempts on one target; overrides the action's own."""
    max_attempts: int = Field(3, ge=1, le=20)
    """Attempts per incident; then people are paged."""
    freeze_windows: tuple[FreezeWindow, ...] = ()
    """While one stands, only actions of class R0 are permitted."""
    storm: StormSettings = StormSettings()
    """Brake for many open incidents at once."""
    flapping: FlapSettings = FlapSettings()
    """Brake for incidents that keep coming back."""


class ApprovalSettings(Group):
    """Questions to people."""

    ttl_seconds: Seconds = 900.0
    """Then the answer is no."""


class PagingSettings(Group):
    """How often people are paged."""

    per_minute: int = Field(10, ge=1, le=10_000)
    """Pages within a minute; what is beyond travels as a list in the next one, so that a storm stays readable."""


class WorkerSettings(Group):
    """The loop that handles incidents."""

    count: int = Field(16, ge=1, le=512)
    """Incidents handled at once (asyncio, not threads)."""
    lease_seconds: float = Field(30.0, ge=1)
    """A worker that has not renewed for so long has lost its incident."""
    drain_seconds: Seconds = 25.0
    """On SIGTERM: time for what is running; what is not done then is verified first at the next start."""
    max_claims: int = Field(5, ge=1)
    """Claims of one incident without progress before it is dead-lettered and paged."""
    retry_delay_seconds: Seconds = 15.0
    """Between two attempts of one incident."""
    max_age_seconds: Seconds = 14_400.0
    """An open incident older than that escalates."""
    blocking_threads: int = Field(4, ge=1, le=64)
    """Threads per system for blocking client libraries."""


class GroupingSettings(Group):
    """Which alerts are one incident."""

    labels: tuple[str, ...] = ()
    """Labels that tell incidents apart besides class and target."""
    merge_escalated_seconds: Seconds = 14_400.0
    """New alerts of an escalated incident that is still firing join it for that long."""


class ProbeSettings(BaseModel):
    """One probe of a target: `kind` and what that kind of prober takes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Name
    """Kind of prober; its own keys stand beside it."""


class TargetSettings(Group):
    """One entry of the allow-list: nothing outside it is ever touched."""

    name: Name
    """What the log, the dashboard and runbooks call it; unique."""
    kind: Name
    """What actions work on: `docker_container`, `http_app`, `directory`, or a plugin's own."""
    match: dict[str, str] = {}
    """Labels that an alert about it carries, all of them; default `{service: <service>}` or `{target: <name>}`."""
    service: str = ""
    """What it is part of, for rates and blast radius; the default is its name."""
    address: dict[str, Any] = {}
    """Typed by kind: `container` for docker_container, `url` for http_app, `root` for directory, ..."""
    labels: dict[str, str] = {}
    """Notes for people; nothing is decided by them."""
    target_class: str = "default"
    """Your own grouping, for autonomy rules."""
    tier: int = Field(3, ge=0, le=5)
    """0 is the most important."""
    protected: bool = False
    """Never acted on, whatever else is configured."""
    instances: int = Field(1, ge=1)
    """Instances that an action on it touches at most; compared with `guard.max_instances`."""
    settle_seconds: Seconds = 30.0
    """How long the probes must hold after a fix before it counts: at least the alert rule's window."""
    settle_interval_seconds: float = Field(5.0, gt=0)
    """Between two probes while settling."""
    healthy_score: float = Field(80.0, ge=0, le=100)
    """From this health score on the target counts as healthy."""
    probes: tuple[ProbeSettings, ...] = ()
    """How its health is read. Without any, an action's own verification is the only evidence."""


class PolicySettings(Group):
    """The learning part, version 0: linear Thompson sampling."""

    noise_scale: float = Field(0.25, gt=0, le=10)
    """Standard deviation of the reward's noise; v in Agrawal and Goyal 2013."""
    prior_weight: float = Field(2.0, gt=0, le=1000)
    """How many pseudo-incidents the runbook's own order is worth."""
    checkpoint_every: int = Field(100, ge=1, le=100_000)
    """Updates between two stored checkpoints."""


class RewardSettings(Group):
    """What counts as good."""

    time_budget_seconds: float = Field(600.0, gt=0)
    """An attempt that takes this long loses a whole point."""
    worse_penalty: float = Field(0.5, ge=0, le=1)
    """Taken off when the change was rolled back or made it worse."""
    closed_bonus: float = Field(0.1, ge=0, le=1)
    """Added when the incident closed without a human."""


class HealthSettings(Group):
    """Penalties of the health score: points taken off 100 at full saturation."""

    cpu: float = Field(25.0, ge=0, le=100)
    """Points for a fully used CPU."""
    memory: float = Field(25.0, ge=0, le=100)
    """Points for memory at its limit."""
    response: float = Field(25.0, ge=0, le=100)
    """Points for slow answers."""
    errors: float = Field(50.0, ge=0, le=100)
    """Points for failing requests."""
    error_lines: float = Field(10.0, ge=0, le=100)
    """Points for error lines in the log."""
    cpu_high: float = Field(0.80, ge=0, lt=1)
    """No penalty below; the full one at 1."""
    memory_high: float = Field(0.80, ge=0, lt=1)
    """No penalty below; the full one at 1."""
    response_high_seconds: float = Field(1.0, gt=0)
    """No penalty below; the full one at five times this."""
    error_rate_full: float = Field(0.20, gt=0, le=1)
    """Fraction of failing requests at which the full penalty is reached."""
    error_lines_full: int = Field(50, ge=1)
    """Error lines at which the full penalty is reached."""


class ValidationSettings(Group):
    """The production validation suite."""

    environment: Literal["production", "staging"] = "production"
    """What this configuration leads to. Production unless said otherwise: drills are refused there."""
    sandboxes: dict[Name, dict[str, Any]] = {}
    """System -> what its drills may break, such as `{app: {url: http://127.0.0.1:8081}}`; see the drill's keys."""
    drills: tuple[str, ...] = ("*",)
    """Drills that are allowed: ids, `<system>.*` or `*`."""
    change_windows: tuple[FreezeWindow, ...] = ()
    """When a drill on production may be run; none means never."""
    max_clock_skew_seconds: float = Field(2.0, gt=0, le=3600)
    """A backend whose clock is further off fails."""
    max_latency_seconds: float = Field(2.0, gt=0, le=60)
    """A backend whose slowest answer of five takes longer fails."""


class TelemetrySettings(Group):
    """What is said of all this."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the log."""
    deadman_url: SecretRef | None = None
    """Called while everything works, so that silence elsewhere raises an alarm."""
    deadman_interval_seconds: float = Field(60.0, ge=1)
    """Between two calls of `deadman_url`; alarm after about three of them."""


class Settings(Group):
    """The whole configuration file."""

    server: ServerSettings = ServerSettings()
    """The HTTP side: address, tokens, bounds."""
    sources: dict[Name, Source] = {"alertmanager": AlertmanagerSource(), "generic": GenericSource()}
    """Name in the path `/webhooks/<name>` -> how its body is understood and who may post."""
    store: StoreSettings = StoreSettings()
    """The database."""
    autonomy: AutonomySettings = AutonomySettings()
    """How far the daemon may go."""
    guard: GuardSettings = GuardSettings()
    """Limits that nothing it learns can raise."""
    approvals: ApprovalSettings = ApprovalSettings()
    paging: PagingSettings = PagingSettings()
    """Questions to people."""
    workers: WorkerSettings = WorkerSettings()
    """The loop that handles incidents."""
    grouping: GroupingSettings = GroupingSettings()
    """Which alerts are one incident."""
    targets: tuple[TargetSettings, ...] = ()
    """The allow-list: nothing outside it is ever touched."""
    runbooks: str = "runbooks"
    """Folder of `*.yaml`, relative to the configuration file."""
    backends: dict[Name, dict[str, Any]] = {}
    """System -> its own settings, validated by its executors: `docker`, `app`, `http`, `filesystem`, `escalate`."""
    policy: PolicySettings = PolicySettings()
    """The learning part."""
    reward: RewardSettings = RewardSettings()
    """What counts as good."""
    health: HealthSettings = HealthSettings()
    """How a probe's readings become one number."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """The log and the dead-man call."""
    validation: ValidationSettings = ValidationSettings()
    """What `oncall-agent validate` may do."""

    @field_validator("targets")
    @classmethod
    def _names_are_unique(cls, targets: tuple[TargetSettings, ...]) -> tuple[TargetSettings, ...]:
        seen: set[str] = set()
        for target in targets:
            if target.name in seen:
                raise ValueError(f"two targets are named {target.name!r}")
            seen.add(target.name)
        return targets

    @model_validator(mode="after")
    def _open_doors_only_on_loopback(self) -> Settings:
        if self.server.host in _LOOPBACK:
            return self
        if not self.server.tokens:
            raise ValueError(f"server.host {self.server.host!r} is not loopback: server.tokens is needed")
        for name, source in self.sources.items():
            if source.auth.kind == "none":
                raise ValueError(f"server.host is not loopback: sources.{name}.auth is needed")
        return self


class RunbookCandidate(Group):
    """One thing to try."""

    action: Name
    """Action id."""
    params: dict[str, Any] = {}
    """As the action declares them; see the reference of actions."""
    target: Name | None = None
    """A target of the configuration other than the incident's own."""
    prior: float = Field(0.5, ge=-1, le=1)
    """Expected reward as far as you know: the policy starts here and learns."""


class Runbook(Group):
    """What could be done about one kind of trouble, best guess first."""

    name: Name
    """Kept with every decision; unique over all files."""
    alert_class: str = Field(alias="class", min_length=1, max_length=64)
    """Kind of trouble: what autonomy rules and the policy tell apart."""
    match: dict[str, str] = Field(min_length=1)
    """Label (or `alertname`) -> value; `~regex` matches a regular expression over the whole value."""
    target_kind: str | None = None
    """Only for targets of this kind."""
    candidates: tuple[RunbookCandidate, ...] = ()
    """What to try. Asking a person and waiting are always among the candidates."""
    settle_seconds: Seconds | None = None
    """Overrides the target's, for rules with a long window."""

    model_config = ConfigDict(populate_by_name=True)
