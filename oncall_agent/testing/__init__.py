"""What the author of an executor needs to test it: fakes, a virtual clock, and the contract test.

Public: third parties run `check_executor` on their own executors, as this project does on its own.
"""

from oncall_agent.testing.airflow import FakeAirflow
from oncall_agent.testing.check import check_executor
from oncall_agent.testing.clock import FakeClock
from oncall_agent.testing.docker import FakeContainer, FakeDocker
from oncall_agent.testing.edge import FakeEdge
from oncall_agent.testing.harness import Harness, context_for
from oncall_agent.testing.kubernetes import FakeKubernetes
from oncall_agent.testing.log import RecordingLog
from oncall_agent.testing.outage import check_outages
from oncall_agent.testing.patient import FakePatient
from oncall_agent.testing.proxy import Fault, FaultyProxy, Upstream
from oncall_agent.testing.receiver import FakeApprise
from oncall_agent.testing.scorecard import RuleResult, Scorecard

__all__ = [
    "FakeAirflow",
    "FakeApprise",
    "FakeClock",
    "FakeContainer",
    "FakeDocker",
    "FakeEdge",
    "FakeKubernetes",
    "FakePatient",
    "Fault",
    "FaultyProxy",
    "Harness",
    "RecordingLog",
    "RuleResult",
    "Scorecard",
    "Upstream",
    "check_executor",
    "check_outages",
    "context_for",
]
