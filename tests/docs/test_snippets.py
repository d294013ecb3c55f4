"""Every snippet of the documentation is accepted by what would read it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.pages import Block, blocks

from oncall_agent.contract import ActionSpec, RiskClass
from oncall_agent.registry import find
from oncall_agent.settings.load import Loaded, check_actions, load
from oncall_agent.settings.model import GenericSource, Settings
from oncall_agent.sources import parse
from oncall_agent.web.schemas import ControlBody

NOW = 1_772_366_460.0
_ALLOWED = {
    "yaml": {"config", "config plugin", "runbook", "runbook plugin", "alertmanager", "prometheus"},
    "json": {"alertmanager-body", "generic-body", "control-body"},
}
_DOCUMENTED = blocks("yaml", "json")


def of(*kinds: str) -> Any:
    chosen = [block for block in _DOCUMENTED if block.check in kinds]
    assert chosen, f"the documentation has no snippet of the kind {kinds}"
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.id)


@pytest.mark.parametrize("block", _DOCUMENTED, ids=lambda block: block.id)
def test_every_snippet_says_how_it_is_checked(block: Block) -> None:
    assert block.check in _ALLOWED[block.language]


@of("config", "config plugin")
def test_a_configuration_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "runbooks").mkdir()
    assert complaints(loaded(tmp_path, block.text), block.check) == []


@of("runbook", "runbook plugin")
def test_a_runbook_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "snippet.yaml").write_text(block.text)
    found = loaded(tmp_path, "{}")
    assert len(found.runbooks) == len(yaml.safe_load(block.text))
    assert complaints(found, block.check) == []


@of("alertmanager")
def test_an_alertmanager_configuration_sends_what_is_resolved_and_keeps_people(block: Block) -> None:
    document = yaml.safe_load(block.text)
    receivers = {one["name"]: one for one in document["receivers"]}
    ours = next(one for one in document["route"]["routes"] if one["receiver"] == "oncall-agent")
    assert document["route"]["receiver"] == "people"
    assert ours["continue"] is True
    assert receivers["oncall-agent"]["webhook_configs"][0]["send_resolved"] is True


@of("prometheus")
def test_a_prometheus_configuration_scrapes_the_daemon(block: Block) -> None:
    (scraped,) = yaml.safe_load(block.text)["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["127.0.0.1:8420"]}]


@of("alertmanager-body")
def test_a_body_of_alertmanager_is_understood(block: Block) -> None:
    settings = Settings()
    source = settings.sources["alertmanager"]
    assert parse(source, block.text.encode(), limits=settings.server, now=NOW, source="alertmanager")


@of("generic-body")
def test_a_generic_body_is_understood_with_the_mapping_above_it(block: Block, tmp_path: Path) -> None:
    above = [
        one
        for one in _DOCUMENTED
        if one.page == block.page and one.line < block.line and "mapping:" in one.text
    ]
    (tmp_path / "runbooks").mkdir()
    settings = loaded(tmp_path, above[-1].text).settings
    (source,) = (one for one in settings.sources.values() if isinstance(one, GenericSource))
    (alert,) = parse(source, block.text.encode(), limits=settings.server, now=NOW, source="generic")
    assert alert.labels.keys() >= {"service", "host"}
    assert alert.annotations


@of("control-body")
def test_a_body_for_the_switches_is_accepted(block: Block) -> None:
    assert ControlBody.model_validate_json(block.text).model_fields_set == json.loads(block.text).keys()


def loaded(folder: Path, text: str) -> Loaded:
    file = folder / "oncall-agent.yaml"
    file.write_text(text)
    return load(file, {})


def complaints(found: Loaded, check: str) -> list[str]:
    plugins = find()
    specs = dict(plugins.specs)
    if check.endswith("plugin"):
        specs["flags.turn_off"] = _flags()
    checked = check_actions(found, specs, plugins.probers, plugins.off)
    return [str(error) for error in (*checked.errors, *checked.warnings)]


def _flags() -> ActionSpec:
    from docs.example import module

    spec: ActionSpec = module("oncall_agent_flags").TurnOff.spec
    assert spec.risk is RiskClass.R2
    return spec
