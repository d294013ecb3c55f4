"""Everything that the author of an executor or a prober needs, and only this.

An executor is a class that an entry point of the group `oncall_agent.actions` names by action id; a prober
one of the group `oncall_agent.probers`, named by kind; a system, with its inspection, grants and drills, one
of `oncall_agent.systems`. The built-in ones come through the same door.
"""

from oncall_agent.contract.clock import Clock, SystemClock
from oncall_agent.contract.executor import (
    SCORECARD,
    ActionContext,
    ActionSpec,
    Executor,
    NoParams,
    Params,
    run_inline,
)
from oncall_agent.contract.prober import Prober, Reading
from oncall_agent.contract.secret import Secret, SecretRef
from oncall_agent.contract.settle import held
from oncall_agent.contract.system import (
    Drill,
    DrillSpec,
    Grants,
    Inspection,
    Privilege,
    System,
    SystemContext,
    Trial,
)
from oncall_agent.errors import ActionError, PermanentError, TransientError, UnfitSandboxError
from oncall_agent.models import Check, Probe, Receipt, RiskClass, Signals, Target

__all__ = [
    "SCORECARD",
    "ActionContext",
    "ActionError",
    "ActionSpec",
    "Check",
    "Clock",
    "Drill",
    "DrillSpec",
    "Executor",
    "Grants",
    "Inspection",
    "NoParams",
    "Params",
    "PermanentError",
    "Privilege",
    "Probe",
    "Prober",
    "Reading",
    "Receipt",
    "RiskClass",
    "Secret",
    "SecretRef",
    "Signals",
    "System",
    "SystemClock",
    "SystemContext",
    "Target",
    "TransientError",
    "Trial",
    "UnfitSandboxError",
    "held",
    "run_inline",
]
