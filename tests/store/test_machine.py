"""Any order of alerts, claims, commits, votes, orders and crashes keeps the promises of the store."""

import asyncio
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from store.building import approval, attempt, begun, change, fixed, placed
from store.conftest import FLAP, GROUPING, HandClock

from oncall_agent.errors import ConflictError, NotFoundError, StaleLeaseError, StoreError
from oncall_agent.models import UNKNOWN_TARGET, AlertStatus, EndReason, IncidentState, Phase, Severity
from oncall_agent.settings.model import StoreSettings
from oncall_agent.store import BeginLimits, Claimed, Move, Store

_TARGETS = ("web", "db", UNKNOWN_TARGET)
_LEASE_SECONDS = 30.0
_ENDS = (IncidentState.RESOLVED, IncidentState.ESCALATED, IncidentState.DEAD_LETTERED)
_HELD = """
    SELECT target, count(*) FROM incidents
    WHERE (state = 'running' OR (state = 'parked' AND phase IN ('settling', 'attempting'))) AND target <> 'unknown'
    GROUP BY target HAVING count(*) > 1"""
_STUCK = """
    SELECT target FROM incidents WHERE state = 'blocked' AND target NOT IN (SELECT target FROM held_targets)
    AND target NOT IN (SELECT target FROM incidents WHERE state = 'queued')"""
_HOLDERS = """
    SELECT target, incident_id FROM held_targets EXCEPT SELECT target, id FROM incidents
    WHERE state = 'running' OR (state = 'parked' AND phase IN ('settling', 'attempting'))"""


@st.composite
def _alerts(draw):
    number = draw(st.integers(0, 5))
    return placed(
        f"{number}",
        key=f"key-{number % 3}-{draw(st.integers(0, 1))}",
        target=_TARGETS[number % 3],
        status=draw(st.sampled_from(AlertStatus)),
        starts_at=900.0 + draw(st.integers(0, 3)),
        severity=draw(st.sampled_from(Severity)),
        silence=draw(st.sampled_from(["", "", "", "s1"])),
    )


class StoreMachine(RuleBasedStateMachine):
    """`claims` keeps old claims too: workers that lost their lease and do not know it."""

    claims = Bundle("claims")

    @initialize()
    def start(self):
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store.db"
        self.clock = HandClock()
        self.accepted = 0
        self.fences: dict[str, int] = {}
        self.open()

    def open(self):
        settings_ = StoreSettings(url=f"sqlite:///{self.path}", max_open_incidents=1_000)
        self.store = self.run(Store.open(settings_, clock=self.clock, flap=FLAP, grouping=GROUPING))

    def run(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 10.0))

    def rows(self, sql):
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    @property
    def now(self):
        return self.clock.now()

    @rule(requests=st.lists(st.lists(_alerts(), max_size=4), min_size=1, max_size=3))
    def accept(self, requests):
        async def together():
            return await asyncio.gather(*(self.store.accept(alerts, self.now) for alerts in requests))

        answers = self.run(together())
        assert [len(alerts) for alerts in requests] == [len(answer) for answer in answers]
        self.accepted += sum(len(alerts) for alerts in requests)

    @rule(target=claims, limit=st.integers(1, 4))
    def claim(self, limit):
        found = self.run(self.store.claim("w", limit=limit, lease_seconds=_LEASE_SECONDS, now=self.now))
        for one in found:
            assert one.incident.fence > self.fences.get(one.incident.id, 0)
            self.fences[one.incident.id] = one.incident.fence
        return multiple(*found)

    @rule(seconds=st.sampled_from([1.0, 20.0, 40.0, 400.0]))
    def wait(self, seconds):
        self.clock.time += seconds

    def commit(self, claimed: Claimed, written):
        try:
            return self.run(self.store.commit(written))
        except StaleLeaseError:
            return "stale"

    @rule(
        claimed=claims,
        key=st.integers(0, 8),
        limits=st.sampled_from([None, BeginLimits(100.0, 3, 3, 3_600.0)]),
    )
    def begin(self, claimed, key, limits):
        written = begun(claimed, self.now, attempt(claimed, self.now, key=f"once-{key}"), limits)
        try:
            self.commit(claimed, written)
        except ConflictError:
            raise AssertionError("an attempt of this incident") from None
        except StoreError as error:
            # A second use of a key is refused by the database itself.
            if "UNIQUE" not in str(error):
                raise

    @rule(claimed=claims, state=st.sampled_from(_ENDS))
    def end(self, claimed, state):
        self.commit(claimed, change(claimed, self.now, move=Move(state, end_reason=EndReason.FIXED)))

    @rule(claimed=claims)
    def finish(self, claimed):
        owner = claimed.incident.id
        begun_ids = self.rows(f"SELECT id FROM attempts WHERE incident_id = '{owner}' AND outcome IS NULL")
        if begun_ids:
            self.commit(claimed, fixed(claimed, self.now, begun_ids[0][0]))

    @rule(claimed=claims, phase=st.sampled_from(Phase), seconds=st.sampled_from([0.0, 30.0]))
    def park(self, claimed, phase, seconds):
        move = Move(IncidentState.PARKED, phase, run_after=self.now + seconds)
        self.commit(claimed, change(claimed, self.now, move=move))

    @rule(claimed=claims, needed=st.integers(1, 2))
    def ask(self, claimed, needed):
        asked = approval(claimed, self.now, needed=needed, expires_at=self.now + 50.0)
        self.commit(
            claimed, change(claimed, self.now, approval=asked, move=Move(IncidentState.AWAITING_APPROVAL))
        )

    @rule(claimed=claims, identity=st.sampled_from(["ann", "bob"]), approve=st.booleans())
    def vote(self, claimed, identity, approve):
        try:
            self.run(self.store.vote(claimed.incident.id, identity=identity, approve=approve, now=self.now))
        except (ConflictError, NotFoundError):
            return

    @rule()
    def expire(self):
        self.run(self.store.expire_approvals(self.now))

    @rule(claimed=claims, verb=st.sampled_from(["escalate", "retry"]))
    def order(self, claimed, verb):
        try:
            self.run(self.store.operator(claimed.incident.id, verb, "ann", self.now))
        except ConflictError:
            return

    @rule(claimed=claims)
    def renew(self, claimed):
        lease = (claimed.incident.id, claimed.incident.fence)
        self.run(self.store.renew([lease], _LEASE_SECONDS, self.now))

    @rule(is_boot=st.booleans())
    def crash(self, is_boot):
        self.run(self.store.close())
        self.open()
        if is_boot:
            self.run(self.store.release_all(self.now))

    @rule()
    def tidy(self):
        self.run(self.store.housekeeping(self.now))

    @invariant()
    def every_alert_is_counted(self):
        terms = self.run(self.store.conservation())
        assert (True, self.accepted) == (terms.balanced, terms.accepted)

    @invariant()
    def counters_agree_with_rows(self):
        counted = {state: n for state, n in self.run(self.store.counts()).items() if n}
        assert dict(self.rows("SELECT state, count(*) FROM incidents GROUP BY state")) == counted

    @invariant()
    def no_target_is_held_twice(self):
        assert [] == self.rows(_HELD)
        assert [] == self.rows(_HOLDERS)

    @invariant()
    def nobody_waits_for_a_free_target(self):
        assert [] == self.rows(_STUCK)

    @invariant()
    def no_attempt_begins_twice(self):
        assert [] == self.rows("SELECT 1 FROM attempts GROUP BY idempotency_key HAVING count(*) > 1")

    @invariant()
    def alerts_of_incidents_agree_with_their_counts(self):
        wrong = """SELECT i.id FROM incidents i LEFT JOIN alerts a ON a.incident_id = i.id
                   GROUP BY i.id HAVING count(a.id) <> max(i.alert_count)"""
        assert [] == self.rows(wrong)

    def teardown(self):
        if hasattr(self, "store"):
            self.run(self.store.close())
            self.loop.close()
            self.folder.cleanup()


StoreMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestStore = StoreMachine.TestCase
