"""Plugins come by entry point; a broken one is off with its reason and the rest works."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from oncall_agent import registry
from oncall_agent.contract import ActionSpec, Check, Executor, Receipt, RiskClass


def spec(**changes):
    base = {
        "id": "test.act",
        "summary": "For tests.",
        "target_kind": "*",
        "risk": RiskClass.R1,
        "reversible": True,
        "deadline_seconds": 1.0,
    }
    return ActionSpec(**{**base, **changes})


class Good(Executor):
    spec = spec()

    async def precheck(self, ctx):
        return Check(ok=True)

    async def execute(self, ctx):
        return Receipt("test.act", 0.0)

    async def verify(self, ctx, receipt):
        return Check(ok=True)


class OtherName(Good):
    spec = spec(id="test.other")


class NoReason(Good):
    spec = spec(reversible=False)


class OddExemption(Good):
    spec = spec(exemptions={"looks_nice": "no"})


class NeedsSettings(Good):
    def __init__(self, settings):
        raise ValueError("backends.test.url is missing")


NotAnExecutor = object()


def found(monkeypatch, name, *, action="test.act"):
    point = EntryPoint(action, f"{__name__}:{name}" if ":" not in name else name, registry.ACTION_GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == registry.ACTION_GROUP else []
    )
    monkeypatch.setattr(EntryPoint, "load", lambda self: _load(name))
    return registry.find()


def _load(name):
    if name == "missing":
        raise ImportError("No module named 'dockerlib'", name="dockerlib")
    if name == "raises":
        raise RuntimeError("boom at import")
    return globals()[name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "client library is not installed: dockerlib"),
        ("raises", "boom at import"),
        ("NotAnExecutor", "not an Executor"),
        ("OtherName", "named 'test.other'"),
        ("NoReason", "neither reversible nor says why"),
        ("OddExemption", "looks_nice"),
    ],
)
def test_a_broken_plugin_is_off_with_its_reason(monkeypatch, name, reason):
    plugins = found(monkeypatch, name)
    assert dict(plugins.actions) == {}
    assert reason in plugins.off["test.act"]


async def test_an_executor_that_can_not_be_opened_switches_off_itself_only(monkeypatch):
    plugins = registry.Plugins({"test.act": Good, "test.bad": NeedsSettings}, {}, {})
    async with registry.Registry(plugins, {}) as opened:
        assert list(opened.executors) == ["test.act"]
        assert "url is missing" in opened.off["test.bad"]
        assert opened.backends["test"].actions == ["test.act"]


def test_what_is_installed_here_loads():
    plugins = registry.find()
    assert {"escalate.page", "watch.wait"} <= set(plugins.actions)


def test_only_what_a_configuration_leads_to_is_imported(monkeypatch):
    names = ["lamp.light", "bell.ring", "lamp"]
    points = [EntryPoint(name, "nowhere:Nothing", registry.ACTION_GROUP) for name in names]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: points if group == registry.ACTION_GROUP else []
    )
    imported = []
    monkeypatch.setattr(EntryPoint, "load", lambda self: imported.append(self.name) or Good)
    registry.find({"lamp"})
    assert imported == ["lamp", "lamp.light"]
