"""What the operator declares under `backends.http`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated

from pydantic import Field, model_validator

from actions.http_declared import Cache, Flag, Pipeline, Pool
from actions.http_templates import (
    HEADER,
    Call,
    Expression,
    Group,
    Pattern,
    Question,
    UrlTemplate,
    fill,
    fill_url,
    names_in,
)
from oncall_agent.contract import PermanentError, SecretRef
from oncall_agent.contract.http import host_of

__all__ = ["Call", "Endpoint", "Expression", "HttpSettings", "Question", "UrlTemplate", "fill", "fill_url"]

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Endpoint(Call):
    """A call that runbooks may name, with what belongs to it."""

    vars: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")], Pattern] = Field(
        default_factory=dict
    )
    """Variable -> regular expression over its whole value."""
    secret_headers: dict[Annotated[str, Field(pattern=HEADER)], SecretRef] = Field(default_factory=dict)
    """Sent with call, question and undo."""
    idempotent: bool = False
    """The server honours `Idempotency-Key`: only then is a call without an answer repeated."""
    verify: Question | None = None
    undo: Call | None = None

    @cached_property
    def patterns(self) -> dict[str, re.Pattern[str]]:
        """The compiled patterns of the variables."""
        return {name: re.compile(text) for name, text in self.vars.items()}

    @model_validator(mode="after")
    def _variables_are_declared(self) -> Endpoint:
        for call in (self, self.verify, self.undo):
            unknown = names_in(call) - set(self.vars) if call is not None else set()
            if unknown:
                raise ValueError(f"variables that are not declared: {sorted(unknown)}")
        return self


class HttpSettings(Group):
    """The group `backends.http`."""

    hosts: tuple[str, ...] | None = None
    """Hosts that may be called, `host` or `host:port`; the default is those of the endpoints and of the target."""
    timeout_seconds: float = Field(5.0, gt=0, le=60)
    """For one request."""
    max_body_bytes: int = Field(65_536, ge=1_024, le=10_485_760)
    """Of an answer; a longer one is an error."""
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    """What `http.call` may call."""
    flags: dict[Id, Flag] = Field(default_factory=dict)
    """What `http.toggle_flag` may set."""
    pools: dict[Id, Pool] = Field(default_factory=dict)
    """Where `http.shift_traffic` and `http.drain_backend` may move traffic."""
    caches: dict[Id, Cache] = Field(default_factory=dict)
    """What `http.purge_cdn` may purge."""
    pipelines: dict[Id, Pipeline] = Field(default_factory=dict)
    """What `http.rollback_deploy` may roll back."""

    @cached_property
    def _declared(self) -> frozenset[str]:
        return frozenset(host_of(call.url) for call in self.calls() if "://" in call.url)

    def calls(self) -> Iterator[Call]:
        """Give every request that is declared anywhere."""
        for endpoint in self.endpoints.values():
            yield from (call for call in (endpoint, endpoint.verify, endpoint.undo) if call is not None)
        for group in (self.flags, self.pools, self.caches, self.pipelines):
            for declared in group.values():
                yield from declared.calls()

    def allowed(self, url: str, own_url: object) -> frozenset[str]:
        """Give the hosts that may be called: the list, or else what the operator wrote in endpoints and target."""
        if self.hosts is not None:
            return frozenset(self.hosts)
        if host_of(url) in self._declared or not isinstance(own_url, str):
            return self._declared
        return self._declared | {host_of(own_url)}

    def check_host(self, url: str, own_url: object) -> None:
        """Look whether a URL may be called at all.

        Raises:
            PermanentError: its host is not on the list.
        """
        host, allowed = host_of(url), self.allowed(url, own_url)
        if host not in allowed and host.rpartition(":")[0] not in allowed:
            raise PermanentError(f"the host {host} is not on the list")
