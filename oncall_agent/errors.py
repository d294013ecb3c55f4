"""Every error of the project, grouped by what happens next.

Refusals, failed checks and outcomes are *values* (see `oncall_agent.models`); an error means that the
caller has to do something else. The docstring of each class is its default message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OncallAgentError(Exception):
    """Something in oncall-agent went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    @property
    def message(self) -> str:
        """The text for people, without the class name."""
        return str(self.args[0])


class ConfigError(OncallAgentError):
    """The configuration is not usable: the daemon refuses to start (exit code 2).

    Attributes:
        file: path as the operator gave it, empty when there is none.
        line: 1-based line in `file`, 0 when unknown.
        key: dotted path of the key, such as `targets[2].url`.
    """

    def __init__(self, message: str, *, file: str = "", line: int = 0, key: str = "") -> None:
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{place}{key}: {message}" if key else f"{place}{message}")
        self.reason, self.file, self.line, self.key = message, file, line, key


class PayloadError(OncallAgentError):
    """A webhook body is not understood: 400 naming the field, nothing is queued.

    Attributes:
        field: dotted path in the body, such as `alerts[0].labels.alertname`; empty for the whole body.
        code: closed vocabulary, the metric label: `malformed_json`, `too_deep`, `too_many_labels`,
            `too_many_alerts`, `wrong_type`, `missing_field`, `bad_value`.
    """

    def __init__(self, message: str, *, field: str = "", code: str = "bad_value") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.reason, self.field, self.code = message, field, code


class AuthError(OncallAgentError):
    """A request is not who it must be (401) or may not do this (403)."""

    def __init__(self, message: str, *, status: int = 401, code: str = "unauthenticated") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class PluginError(OncallAgentError):
    """An executor or prober can't be loaded: it is off, the rest works, readiness shows it."""


class PolicyError(OncallAgentError):
    """The policy refuses what it was given (a context, a reward, a snapshot): nothing was learned or loaded."""


class StoreError(OncallAgentError):
    """The database does not answer: claiming stops, readiness is false, webhooks get 503."""


class QueueFullError(StoreError):
    """The queue is at its bound: 503 with Retry-After, so that the sender repeats."""

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StaleLeaseError(StoreError):
    """The lease on an incident was lost to another worker: what this one still wants to write is void."""


class ConflictError(OncallAgentError):
    """The request does not fit the state of the thing it is about (409)."""

    def __init__(self, message: str, *, code: str = "conflict") -> None:
        super().__init__(message)
        self.code = code


class NotFoundError(OncallAgentError):
    """There is no such thing (404)."""


class ActionError(OncallAgentError):
    """An executor could not do what it was asked to.

    Attributes:
        receipt_facts: what a half-done change already did; the runner keeps it as a partial receipt, so that
            rollback has what it needs. None: the world was not touched.
    """

    def __init__(self, message: str | None = None, *, receipt_facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.receipt_facts = receipt_facts


class TransientError(ActionError):
    """The backend may well answer next time: retried with backoff and jitter inside the deadline."""

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_seconds: float | None = None,
        receipt_facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, receipt_facts=receipt_facts)
        self.retry_after_seconds = retry_after_seconds


class PermanentError(ActionError):
    """Repeating will not help: no retry; undone if there is a receipt; the incident escalates."""


class UnfitSandboxError(PermanentError):
    """The sandbox of a drill can't show this fault at all: the drill is skipped, not failed."""
