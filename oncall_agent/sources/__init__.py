"""Webhook body in, alerts out: pure functions, one module per sender.

`parse` raises `PayloadError` naming the field, and nothing else, whatever the body is.
"""

from __future__ import annotations

from oncall_agent.models import Alert
from oncall_agent.settings.model import AlertmanagerSource, ServerSettings, Source
from oncall_agent.sources import alertmanager, generic


def parse(
    settings: Source, body: bytes, *, limits: ServerSettings, now: float, source: str
) -> tuple[Alert, ...]:
    """Read the alerts of one webhook body, in the sender's order; unknown keys are ignored.

    One alert that is not understood refuses the whole body: a sender told 400 must not believe that the
    rest was taken.

    Args:
        settings: the configured source; its kind picks the module.
        body: as received.
        limits: bounds on depth, alerts and labels.
        now: epoch seconds of the receipt, for senders that give no start.
        source: name of the source in the configuration, part of each alert's identity.

    Raises:
        PayloadError: naming the field.
    """
    if isinstance(settings, AlertmanagerSource):
        return alertmanager.parse(body, limits=limits, source=source)
    return generic.parse(settings.mapping, body, limits=limits, now=now, source=source)


def check(settings: Source) -> None:
    """Raise `ConfigError` when a source's own expressions can't be compiled."""
    if not isinstance(settings, AlertmanagerSource):
        generic.compiled(settings.mapping)
