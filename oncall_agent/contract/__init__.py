"""Everything that the author of an executor or a prober needs, and only this.

An executor is a class that an entry point of the group `oncall_agent.actions` names by action id; a prober
one of the group `oncall_agent.probers`, named by kind. The built-in ones come through the same door.
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
from oncall_agent.errors import ActionError, PermanentError, TransientError
from oncall_agent.models import Check, Probe, Receipt, RiskClass, Signals, Target

__all__ = [
    "SCORECARD",
    "ActionContext",
    "ActionError",
    "ActionSpec",
    "Check",
    "Clock",
    "Executor",
    "NoParams",
    "Params",
    "PermanentError",
    "Probe",
    "Prober",
    "Reading",
    "Receipt",
    "RiskClass",
    "Secret",
    "SecretRef",
    "Signals",
    "SystemClock",
    "Target",
    "TransientError",
    "held",
    "run_inline",
]
