"""Every Prometheus instrument of the daemon, in one place, without ids or targets as labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SLOW = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """One set of instruments with a registry of its own, so that several daemons fit in one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._intake()
        self._decisions()
        self._attempts()
        self._health()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"oncall_agent_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"oncall_agent_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"oncall_agent_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _intake(self) -> None:
        self.alerts = self._counter(
            "alerts_total",
            "Alerts accepted (durable), by what became of them.",
            "source",
            "disposition",
            "reason",
        )
        self.requests_refused = self._counter(
            "webhook_refusals_total", "Webhook requests not accepted, by error code.", "source", "code"
        )
        self.ingest_seconds = self._histogram(
            "ingest_seconds", "Webhook request read to answer written, durable.", _FAST
        )
        self.conservation = self._gauge(
            "conservation_alerts",
            "Terms of accepted = open + resolved + escalated + dead + suppressed.",
            "term",
        )
        self.balanced = self._gauge(
            "conservation_balanced", "1 while the equation holds, 0 when alerts are missing."
        )

    def _decisions(self) -> None:
        self.decisions = self._counter("decisions_total", "Decisions, by action and mode.", "action", "mode")
        self.refusals = self._counter(
            "refusals_total", "Candidates that the guard refused, by reason.", "reason"
        )
        self.decide_seconds = self._histogram(
            "decide_seconds", "Features, guard and policy of one decision.", _FAST
        )
        self.approvals = self._counter("approvals_total", "Approvals, by verdict.", "verdict")
        self.reward = self._histogram(
            "reward_ratio", "Rewards of finished attempts.", (-1, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1)
        )
        self.policy_version = self._gauge("policy_updates", "Updates that the running policy has seen.")

    def _attempts(self) -> None:
        self.attempts = self._counter(
            "attempts_total", "Finished attempts, by action and ending.", "action", "status", "reason"
        )
        self.attempt_seconds = self._histogram(
            "attempt_seconds", "Begin to finish of one attempt.", _SLOW, "action"
        )
        self.rollbacks = self._counter("rollbacks_total", "Changes taken back, by how it went.", "status")
        self.ends = self._counter("incident_ends_total", "Incidents that became final.", "state", "reason")
        self.incident_seconds = self._histogram(
            "incident_seconds", "Opened to final, by final state.", _SLOW, "state"
        )
        self.first_action_seconds = self._histogram(
            "first_action_seconds", "Incident opened to its first executor called.", _FAST
        )
        self.pages = self._counter("pages_total", "Pages to people, by how it went.", "status")

    def _health(self) -> None:
        self.incidents = self._gauge("incidents", "Incidents now, by state.", "state")
        self.queue_fill = self._gauge(
            "queue_fill_ratio", "Open incidents as a fraction of store.max_open_incidents."
        )
        self.busy = self._gauge("workers_busy", "Incidents being handled now.")
        self.paused = self._gauge("paused", "1 while the kill switch is on.")
        self.ready = self._gauge("ready", "1 while the part works, 0 while it is off.", "part")
        self.backend_up = self._gauge("backend_up", "1 while the backend answers.", "system")
        self.breaker_open = self._gauge("breaker_open", "1 while calls to the backend are cut.", "system")
        self.store_errors = self._counter("store_errors_total", "Operations that the database failed.")
        self.loop_failures = self._counter(
            "loop_failures_total", "Background loops restarted after an error.", "loop"
        )
        self.log_dropped = self._gauge("log_lines_dropped", "Log lines that nobody took in time.")
        self.loop_lag_seconds = self._gauge(
            "event_loop_lag_seconds", "Latest delay of a timer of the event loop."
        )

    def render(self) -> bytes:
        """Give the exposition text for `/metrics`."""
        return generate_latest(self.registry)
