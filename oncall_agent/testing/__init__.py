"""What the author of an executor needs to test it: fakes, a virtual clock, and the contract test.

Public: third parties run `check_executor` on their own executors, as this project does on its own.
"""

from oncall_agent.testing.check import check_executor
from oncall_agent.testing.clock import FakeClock
from oncall_agent.testing.docker import FakeContainer, FakeDocker
from oncall_agent.testing.harness import Harness, context_for
from oncall_agent.testing.log import RecordingLog
from oncall_agent.testing.patient import FakePatient
from oncall_agent.testing.receiver import FakeApprise
from oncall_agent.testing.scorecard import RuleResult, Scorecard

__all__ = [
    "FakeApprise",
    "FakeClock",
    "FakeContainer",
    "FakeDocker",
    "FakePatient",
    "Harness",
    "RecordingLog",
    "RuleResult",
    "Scorecard",
    "check_executor",
    "context_for",
]
