"""The environment over the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oncall_agent.models import Autonomy
from oncall_agent.settings.load import ConfigErrors, load

FILE = """
server: &server {port: 1, host: 127.0.0.1, tokens: [{name: ann, secret: "env:X"}]}
sources:
  Main-AM: {kind: alertmanager}
guard: {cooldown_seconds: {docker.restart_container: 5}}
targets: [{name: web, kind: x}]
telemetry: {deadman_url: "env:X"}
backends: {one: *server, two: *server}
"""


def _settings(folder: Path, environ: Mapping[str, str]) -> Any:
    path = folder / "main.yaml"
    path.write_text(FILE)
    return load(path, environ).settings


OVERLAYS: dict[str, tuple[str, str, Any]] = {
    "number": ("SERVER__PORT", "9000", lambda s: s.server.port == 9000),
    "text": ("STORE__URL", "sqlite:///x.db", lambda s: s.store.url == "sqlite:///x.db"),
    "word": ("AUTONOMY__DEFAULT", "observe", lambda s: s.autonomy.default is Autonomy.OBSERVE),
    "list": ("GROUPING__LABELS", '["zone", "env"]', lambda s: s.grouping.labels == ("zone", "env")),
    "object": ("GUARD__STORM", '{"stop_at": 50}', lambda s: s.guard.storm.stop_at == 50),
    "list of objects": ("TARGETS", '[{"name": "db", "kind": "y"}]', lambda s: [t.name for t in s.targets] == ["db"]),
    "a name that the file writes in its own case": (
        "SOURCES__MAIN-AM__AUTH", '{"kind": "bearer", "token": "env:T"}',
        lambda s: list(s.sources) == ["Main-AM"] and s.sources["Main-AM"].auth.kind == "bearer",
    ),
    "a name that is new": ("SOURCES__HOOK__KIND", "generic", lambda s: "hook" in s.sources and s.sources["hook"].kind == "generic"),
    "one of two that share an anchor": (
        "BACKENDS__ONE__PORT", "7", lambda s: (s.backends["one"]["port"], s.backends["two"]["port"], s.server.port) == ("7", 1, 1),
    ),
    "unset": ("SERVER__TOKENS", "[]", lambda s: s.server.tokens == ()),
    "null": ("TELEMETRY__DEADMAN_URL", "null", lambda s: s.telemetry.deadman_url is None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value", "is_set"), OVERLAYS.values(), ids=OVERLAYS.keys())
def test_a_variable_overrides_its_key(tmp_path: Path, name: str, value: str, is_set: Any) -> None:
    assert is_set(_settings(tmp_path, {f"ONCALL_AGENT__{name}": value}))
    assert not is_set(_settings(tmp_path, {}))


REFUSED: dict[str, tuple[str, str, str]] = {
    "unknown key": ("SERVER__PROT", "1", "server.prot: unknown key, did you mean 'port'?"),
    "wrong type": (
        "SERVER__PORT",
        "many",
        "server.port: should be a valid integer, unable to parse string as an integer",
    ),
    "not JSON": ("TARGETS", "[{", "not JSON, although it begins like a list or an object"),
    "JSON without end": ("TARGETS", "[" * 5_000, "not JSON, although it begins like a list or an object"),
    "too deep": ("BACKENDS__X", "[" * 100 + "]" * 100, "nested deeper than 64 levels"),
    "into a list": (
        "TARGETS__0__NAME",
        "x",
        "targets is not a mapping: set it as a whole, lists and objects as JSON",
    ),
    "name missing": ("SERVER____PORT", "1", "the name of a key is missing between two underscores"),
    "no name at all": ("", "1", "the name of a key is missing between two underscores"),
}


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigErrors) as raised:
        _settings(tmp_path, {f"ONCALL_AGENT__{name}": value})
    assert f"environment variable ONCALL_AGENT__{name}: {expected}" == str(raised.value)


def test_other_variables_are_left_alone(tmp_path: Path) -> None:
    assert (
        _settings(
            tmp_path, {"ONCALL_AGENT_PORT": "5", "PATH": "/bin", "oncall_agent__server__port": "6"}
        ).server.port
        == 1
    )
