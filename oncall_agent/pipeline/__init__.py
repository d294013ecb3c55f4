"""One incident from claim to reward, as a visible list of small stages."""

from oncall_agent.pipeline.flow import STAGES, handle
from oncall_agent.pipeline.run import Services

__all__ = ["STAGES", "Services", "handle"]
