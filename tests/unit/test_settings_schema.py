"""The JSON Schema, and what is shipped under config/, against the loader."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from oncall_agent.models import Autonomy
from oncall_agent.registry import find
from oncall_agent.settings.document import read
from oncall_agent.settings.load import ConfigErrors, check_actions, load
from oncall_agent.settings.schema import json_schema, runbooks_schema
from oncall_agent.telemetry.metrics import Metrics

CASES = Path(__file__).parent / "config_cases"
CONFIG = Path(__file__).parents[2] / "config"
MAIN = jsonschema.Draft202012Validator(json_schema())
RUNBOOKS = jsonschema.Draft202012Validator(runbooks_schema())


def _files(folder: Path) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted(folder.glob("*.yaml"))]


def _value(path: Path) -> Any:
    document = read(path, path.name)
    assert document.problems == ()
    return document.value


def test_the_schemas_are_valid_schemas() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.Draft202012Validator.check_schema(runbooks_schema())
    assert "RunbookFile" in json_schema()["$defs"]


@pytest.mark.parametrize("path", [CONFIG / "oncall-agent.yaml", *_files(CASES / "valid")])
def test_schema_and_loader_accept_a_good_configuration(path: Path) -> None:
    MAIN.validate(_value(path))
    assert load(path, {}).path == path


@pytest.mark.parametrize("path", _files(CONFIG / "runbooks"))
def test_schema_accepts_the_shipped_runbooks(path: Path) -> None:
    RUNBOOKS.validate(_value(path))


@pytest.mark.parametrize("path", _files(CASES / "broken"))
def test_schema_and_loader_refuse_a_broken_configuration(path: Path) -> None:
    assert not MAIN.is_valid(_value(path))
    with pytest.raises(ConfigErrors):
        load(path, {})


@pytest.mark.parametrize("path", _files(CASES / "broken_runbooks"))
def test_schema_and_loader_refuse_broken_runbooks(path: Path, tmp_path: Path) -> None:
    assert not RUNBOOKS.is_valid(_value(path))
    (tmp_path / "runbooks").mkdir()
    shutil.copy(path, tmp_path / "runbooks")
    (tmp_path / "main.yaml").write_text("{}")
    with pytest.raises(ConfigErrors):
        load(tmp_path / "main.yaml", {})


def _undescribed(schema: dict[str, Any]) -> Iterator[str]:
    for name, group in {"Settings": schema, **schema["$defs"]}.items():
        if "description" not in group:
            yield name


def test_every_group_of_the_schema_is_described() -> None:
    assert list(_undescribed(json_schema())) == []


def test_the_shipped_configuration_touches_nothing_and_stays_on_this_machine() -> None:
    settings = load(CONFIG / "oncall-agent.yaml", {}).settings
    assert (settings.autonomy.default, settings.autonomy.rules) == (Autonomy.SHADOW, ())
    assert settings.server.host == "127.0.0.1"


def test_the_shipped_configuration_fits_the_installed_actions() -> None:
    plugins = find()
    checked = check_actions(
        load(CONFIG / "oncall-agent.yaml", {}), plugins.specs, plugins.probers, plugins.off
    )
    assert [str(error) for error in checked.errors] == []


def test_the_shipped_runbooks_show_every_system_that_can_be_healed() -> None:
    runbooks = load(CONFIG / "oncall-agent.yaml", {}).runbooks
    offered = {candidate.action.partition(".")[0] for book in runbooks for candidate in book.candidates}
    assert {spec.system for spec in find().specs.values() if not spec.read_only} <= offered


def test_the_shipped_alert_rules_use_metrics_that_exist() -> None:
    text = (CONFIG / "prometheus" / "oncall-agent.rules.yaml").read_text()
    used = set(re.findall(r"oncall_agent_[a-z_]+", text))
    known = {
        name
        for family in Metrics().registry.collect()
        for name in (family.name, f"{family.name}_total" if family.type == "counter" else family.name)
    }
    assert used
    assert set() == used - known


COMMANDS = {
    "promtool check rules": [
        "promtool",
        "check",
        "rules",
        str(CONFIG / "prometheus" / "oncall-agent.rules.yaml"),
    ],
    "promtool test rules": ["promtool", "test", "rules", str(CASES / "oncall-agent.rules.test.yaml")],
    "amtool check-config": ["amtool", "check-config", str(CONFIG / "alertmanager" / "alertmanager.yml")],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_tools_of_the_senders_accept_what_is_shipped_for_them(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def _unit(tmp_path: Path) -> str:
    """The unit with a binary that exists: systemd looks for it."""
    text = (CONFIG / "systemd" / "oncall-agent.service").read_text()
    unit = tmp_path / "oncall-agent.service"
    unit.write_text(text.replace("/opt/oncall-agent/bin/oncall-agent", "/bin/true"))
    return str(unit)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    unit = _unit(tmp_path)
    verified = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-200:]
