"""How far the daemon may go with one action: overrides by the operator, then the rules, then the default."""

from __future__ import annotations

from collections.abc import Mapping

from oncall_agent.models import Autonomy, RiskClass
from oncall_agent.settings.model import AutonomyRule, AutonomySettings

ANY = "*"
CARRIED_OUT = frozenset({Autonomy.APPROVE, Autonomy.AUTO})


def level(
    alert_class: str,
    action: str,
    target_class: str,
    *,
    settings: AutonomySettings,
    overrides: Mapping[str, Autonomy],
) -> Autonomy:
    """Give the autonomy level of an action; within overrides and within rules the first that matches wins."""
    if overrides:
        keys = override_keys(alert_class, action, target_class)
        for key, granted in overrides.items():
            if key in keys:
                return granted
    for rule in settings.rules:
        if _covers(rule, alert_class, action, target_class):
            return rule.level
    return settings.default


def capped(granted: Autonomy, risk: RiskClass) -> Autonomy:
    """Give the level that the risk allows: what can't be undone is always asked for, whatever was granted."""
    return Autonomy.APPROVE if risk is RiskClass.R3 and granted is Autonomy.AUTO else granted


def override_keys(alert_class: str, action: str, target_class: str) -> frozenset[str]:
    """Give every key `class/action/target_class`, with `*` for any part, under which an override applies."""
    return frozenset(
        f"{first}/{second}/{third}"
        for first in (alert_class, ANY)
        for second in (action, ANY)
        for third in (target_class, ANY)
    )


def _covers(rule: AutonomyRule, alert_class: str, action: str, target_class: str) -> bool:
    return (
        rule.alert_class in (ANY, alert_class)
        and rule.action in (ANY, action)
        and rule.target_class in (ANY, target_class)
    )
