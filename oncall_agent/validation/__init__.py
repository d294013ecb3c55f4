"""The production validation suite: proof, on the operator's own systems, before the program is trusted.

`plan` decides what may be asked and broken, `inspecting` and `drilling` do it, `suite` runs them side by side,
`reports` write down what came of it. Never part of a running daemon.
"""

from oncall_agent.validation.results import Finding, Kind, Report, Verdict
from oncall_agent.validation.suite import Suite

__all__ = ["Finding", "Kind", "Report", "Suite", "Verdict"]
