"""Flags, pools, caches and pipelines as the operator declares them under `backends.http`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from actions.http_templates import (
    Call,
    Expression,
    Group,
    Lookup,
    Question,
    Scalar,
    SecretHeaders,
    UrlTemplate,
    names_in,
    names_in_headers,
)


def _absolute(path: str) -> str:
    if not Path(path).is_absolute():
        raise ValueError(f"{path!r} is not an absolute path")
    return path


AbsolutePath = Annotated[str, Field(min_length=2, max_length=4_096), AfterValidator(_absolute)]
StatsSocket = Annotated[str, Field(max_length=4_096, pattern=r"^(/.+|[A-Za-z0-9.-]{1,253}:[0-9]{1,5})$")]
Argv = Annotated[tuple[Annotated[str, Field(max_length=4_096)], ...], Field(min_length=1, max_length=32)]


class Declared(Group):
    """Requests that belong together and carry the same secrets."""

    secret_headers: SecretHeaders = Field(default_factory=dict)
    """Sent with every request of this group."""
    symptom: Question | None = None
    """What must hold afterwards, such as an error rate; without it the change itself is all the evidence."""

    def allows(self) -> Mapping[str, frozenset[str]]:
        """Give request -> the variables that it may use."""
        return {}

    def calls(self) -> Iterator[Call]:
        """Give every request of the group."""
        if self.symptom is not None:
            yield self.symptom
        for name in self.allows():
            call = getattr(self, name)
            if call is not None:
                yield call

    @model_validator(mode="after")
    def _variables_are_known(self) -> Declared:
        for name, known in {"symptom": frozenset[str](), **self.allows()}.items():
            call = getattr(self, name)
            unknown = (names_in(call) | names_in_headers(call)) - known if call is not None else set()
            if unknown:
                raise ValueError(f"{name} has no variables {sorted(unknown)}; it has {sorted(known)}")
        return self


class Flag(Declared):
    """A feature flag."""

    read: Lookup
    """Gives its value of now."""
    write: Call
    """Sets it; `{value}` stands for the value."""
    values: tuple[Scalar, ...] = (True, False)
    """What it may be set to."""

    def allows(self) -> Mapping[str, frozenset[str]]:
        """Give request -> the variables that it may use."""
        return {"read": frozenset(), "write": frozenset({"value"})}


class _Pool(Declared):
    min_healthy: int = Field(1, ge=1, le=1_000)
    """So many other members must be up and take traffic before one is taken out."""
    max_weight: int = Field(256, ge=1, le=65_535)
    """No weight is set beyond this."""


class NginxPool(_Pool):
    """An upstream of nginx whose servers stand in an include file of their own, one per line.

    `server 10.0.0.5:80 weight=3; # blue` is the member `blue`; without the comment the address is its name.
    """

    provider: Literal["nginx"]
    """Says which kind of pool this is."""
    include: AbsolutePath
    """The file; it is replaced by renaming, in its own folder."""
    pid_file: AbsolutePath = "/run/nginx.pid"
    """Of the master process: its workers show whether a change is in use."""
    test: Argv = ("/usr/sbin/nginx", "-t")
    """Looks at the whole configuration."""
    reload: Argv = ("/usr/sbin/nginx", "-s", "reload")
    """Takes it into use."""
    health_path: str = Field("/", pattern=r"^/[^\s{}]{0,500}$")
    """Asked of each member directly; below 400 means up."""


class HaproxyPool(_Pool):
    """A backend of HAProxy, changed at run time over its stats socket; a restart of HAProxy forgets the change."""

    provider: Literal["haproxy"]
    """Says which kind of pool this is."""
    socket: StatsSocket
    """Stats socket of level admin: an absolute path, or `host:port`, which asks nobody who he is."""
    backend: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")
    """Its name in HAProxy's configuration."""


class EndpointPool(_Pool):
    """A load balancer that is spoken to by declared requests."""

    provider: Literal["endpoints"]
    """Says which kind of pool this is."""
    read: Lookup
    """Gives an object of member -> weight; 0 means that it takes no traffic."""
    healthy: Lookup
    """Gives the list of the members that are up."""
    write: Call
    """Sets a weight; `{member}` and `{weight}` stand for them."""

    def allows(self) -> Mapping[str, frozenset[str]]:
        """Give request -> the variables that it may use."""
        return {"read": frozenset(), "healthy": frozenset(), "write": frozenset({"member", "weight"})}


Pool = Annotated[NginxPool | HaproxyPool | EndpointPool, Field(discriminator="provider")]


class Cache(Declared):
    """A CDN or caching proxy."""

    purge_key: Call | None = None
    """Purges one object; `{key}` stands for its path without the first slash, in a URL percent-encoded but for slashes."""
    purge_tag: Call | None = None
    """Purges what carries a tag; `{tag}` stands for it."""
    max_count: int = Field(20, ge=1, le=1_000)
    """Keys or tags at once."""
    url: UrlTemplate
    """Where objects are asked for; a key is put behind it."""
    origin: UrlTemplate | None = None
    """Where the origin has them: verify then compares what the cache gives with it."""
    status_header: str = Field("X-Cache-Status", pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The header in which the cache says HIT or MISS."""
    headroom: Question | None = None
    """What must hold before a purge: the origin bears the load."""

    def allows(self) -> Mapping[str, frozenset[str]]:
        """Give request -> the variables that it may use."""
        return {"purge_key": frozenset({"key"}), "purge_tag": frozenset({"tag"}), "headroom": frozenset()}

    def calls(self) -> Iterator[Call]:
        """Give every request of the group."""
        yield from super().calls()
        yield from (Call(url=url) for url in (self.url, self.origin) if url is not None)


class Pipeline(Declared):
    """A deployment pipeline."""

    read: Lookup
    """Gives the version that was deployed last."""
    previous: Expression | None = None
    """Over the same answer: the version before it, used when a runbook names none."""
    deployed_at: Expression
    """Over the same answer: when it was deployed, in epoch seconds or as ISO 8601."""
    last_key: Expression | None = None
    """Over the same answer: the Idempotency-Key of the last deployment; needed with `previous`."""
    artifacts: Lookup
    """Gives the list of versions that can be deployed."""
    frozen: Lookup | None = None
    """Gives true while nothing may be deployed."""
    deploy: Call
    """Deploys `{version}`; sent with an Idempotency-Key."""
    live: Lookup | None = None
    """Gives the version that really runs; the default is `read`."""
    window_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    """An older deployment is not what broke it just now."""

    def allows(self) -> Mapping[str, frozenset[str]]:
        """Give request -> the variables that it may use."""
        plain = dict.fromkeys(("read", "artifacts", "frozen", "live"), frozenset[str]())
        return {**plain, "deploy": frozenset({"version"})}

    @model_validator(mode="after")
    def _can_tell_its_own(self) -> Pipeline:
        if self.previous is not None and self.last_key is None:
            raise ValueError("previous needs last_key: a repeated call must see that it has been done")
        return self
