"""`log.md` and `metrics.md`."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from oncall_agent.telemetry.catalogue import EVENTS
from oncall_agent.telemetry.metrics import Metrics
from reference.meanings import EVENT_MEANINGS, FIELD_MEANINGS
from reference.text import code, page, table

_LOG = """
JSON lines on standard output, one object per line, made for journald and for `oncall-agent logs -`. Every line has
`timestamp` (RFC 3339, UTC), `level` and `event`; the other fields are listed here. Values are cut at 2,000 characters,
lines at 16 KiB, and secrets that were read are replaced by `***`. `attempt.finished` is the one canonical line of an
attempt: everything else about it can be left out of a search.
"""
_METRICS = """
In Prometheus' text format at `/metrics`. No metric has an id or a target as a label. Ready-made alerts on them are in
[`config/prometheus/oncall-agent.rules.yaml`](../../config/prometheus/oncall-agent.rules.yaml).
"""


def instruments() -> list[MetricWrapperBase]:
    """Give every instrument, in the order in which it is made."""
    return [one for one in vars(Metrics()).values() if isinstance(one, MetricWrapperBase)]


def metric_name(one: MetricWrapperBase) -> str:
    """Give the name under which it is scraped."""
    (described,) = one.describe()
    return described.name + ("_total" if described.type == "counter" else "")


def render_metrics() -> str:
    """Give the page of metrics."""
    rows = []
    for one in instruments():
        (described,) = one.describe()
        labels = ", ".join(code(label) for label in one._labelnames)  # noqa: SLF001 - no public way to ask
        rows.append((code(metric_name(one)), described.type, labels, described.documentation))
    return page("Metrics", _METRICS, table(("metric", "type", "labels", "meaning"), rows))


def render_log() -> str:
    """Give the page of log events."""
    events = (
        (code(name), EVENT_MEANINGS[name], ", ".join(code(field) for field in fields))
        for name, fields in sorted(EVENTS.items())
    )
    used = sorted({field for fields in EVENTS.values() for field in fields})
    fields = ((code(field), FIELD_MEANINGS[field]) for field in used)
    return page(
        "Log events",
        _LOG,
        table(("event", "when", "fields"), events),
        "## Fields\n\n" + table(("field", "meaning"), fields),
    )
