"""The configuration against the installed actions and probers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from oncall_agent.contract import ActionSpec, NoParams, Params, Prober, RiskClass
from oncall_agent.settings.load import Checked, check_actions, load


class RestartParams(Params):
    """Made up."""

    timeout_seconds: int = Field(10, ge=1)


class HttpParams(Params):
    """Made up."""

    url: str


class HttpProber(Prober):
    """Made up."""

    kind = "http"
    params: ClassVar[type[Params]] = HttpParams

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def _spec(action: str, kind: str, params: type[Params] = NoParams) -> ActionSpec:
    return ActionSpec(
        action, "made up", kind, RiskClass.R1, reversible=True, deadline_seconds=1.0, params=params
    )


SPECS = {
    spec.id: spec
    for spec in (_spec("docker.restart_container", "container", RestartParams), _spec("http.call", "*"))
}
OFF = {
    "redis.purge": "its client library is not installed: redis",
    "probe:tcp": "broken",
    "kubernetes": "no cluster",
}


def _check(folder: Path, text: str, runbook: str = "[]") -> Checked:
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "r.yaml").write_text(runbook)
    (folder / "main.yaml").write_text(text)
    return check_actions(load(folder / "main.yaml", {}), SPECS, {"http": HttpProber}, OFF)


def _texts(folder: Path, errors: tuple[Exception, ...]) -> list[str]:
    return [str(error).replace(f"{folder}/", "") for error in errors]


TARGETS = "targets: [{name: web, kind: container}, {name: page, kind: website}]"
_HEAD = "- name: a\n  class: b\n  match: {x: y}\n"
CANDIDATES: dict[str, tuple[str, list[str], list[str]]] = {
    "all well": ("  candidates: [{action: docker.restart_container, params: {timeout_seconds: 5}}, {action: http.call}]", [], []),
    "unknown action": (
        "  candidates:\n  - {action: docker.restart_contaner}",
        ["runbooks/r.yaml:5: [0].candidates[0].action: no action of that name, did you mean 'docker.restart_container'?"], [],
    ),
    "action that is off": (
        "  candidates:\n  - {action: redis.purge}", [],
        ["runbooks/r.yaml:5: [0].candidates[0].action: switched off here: its client library is not installed: redis"],
    ),
    "system that is off": (
        "  candidates:\n  - {action: kubernetes.delete_pod}", [],
        ["runbooks/r.yaml:5: [0].candidates[0].action: switched off here: no cluster"],
    ),
    "unknown parameter": (
        "  candidates:\n  - action: docker.restart_container\n    params:\n      timeout: 5",
        ["runbooks/r.yaml:7: [0].candidates[0].params.timeout: unknown key, did you mean 'timeout_seconds'?"], [],
    ),
    "parameter out of range": (
        "  candidates:\n  - action: docker.restart_container\n    params:\n      timeout_seconds: 0",
        ["runbooks/r.yaml:7: [0].candidates[0].params.timeout_seconds: should be greater than or equal to 1"], [],
    ),
    "kind of the named target": (
        "  candidates:\n  - {action: docker.restart_container, target: page}",
        ["runbooks/r.yaml:5: [0].candidates[0].action: works on targets of kind container, not website"], [],
    ),
    "kind of the runbook": (
        "  target_kind: website\n  candidates:\n  - {action: docker.restart_container}",
        ["runbooks/r.yaml:6: [0].candidates[0].action: works on targets of kind container, not website"], [],
    ),
    "kind of the runbook with another target": (
        "  target_kind: website\n  candidates:\n  - {action: docker.restart_container, target: web}", [], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "errors", "warnings"), CANDIDATES.values(), ids=CANDIDATES.keys())
def test_candidates_must_fit_the_installed_actions(
    tmp_path: Path, text: str, errors: list[str], warnings: list[str]
) -> None:
    checked = _check(tmp_path, TARGETS, _HEAD + text)
    assert (errors, warnings) == (_texts(tmp_path, checked.errors), _texts(tmp_path, checked.warnings))


NAMES: dict[str, tuple[str, list[str], list[str]]] = {
    "all well": (
        """
        autonomy: {rules: [{action: http.call, level: auto}, {level: auto}]}
        guard: {cooldown_seconds: {http.call: 5}}
        backends: {http: {}, docker: {}}
        targets: [{name: a, kind: b, probes: [{kind: http, url: x}]}]
        """, [], [],
    ),
    "rule for an unknown action": (
        "autonomy:\n  rules:\n  - action: http.cal\n    level: auto",
        ["main.yaml:3: autonomy.rules[0].action: no action of that name, did you mean 'http.call'?"], [],
    ),
    "rule for an action that is off": (
        "autonomy:\n  rules:\n  - {action: redis.purge, level: auto}", [],
        ["main.yaml:3: autonomy.rules[0].action: switched off here: its client library is not installed: redis"],
    ),
    "cooldown of an unknown action": (
        "guard:\n  cooldown_seconds:\n    http.cal: 5",
        ["main.yaml:3: guard.cooldown_seconds.http.cal: no action of that name, did you mean 'http.call'?"], [],
    ),
    "settings of an unknown system": (
        "backends:\n  dokcer: {}", ["main.yaml:2: backends.dokcer: no action or probe uses it, did you mean 'docker'?"], [],
    ),
    "settings of a system that is off": (
        "backends:\n  redis: {}\n  tcp: {}", [],
        [
            "main.yaml:2: backends.redis: switched off here: its client library is not installed: redis",
            "main.yaml:3: backends.tcp: switched off here: broken",
        ],
    ),
    "unknown probe": (
        "targets:\n- name: a\n  kind: b\n  probes:\n  - kind: htp",
        ["main.yaml:5: targets[0].probes[0].kind: no probe of that kind, did you mean 'http'?"], [],
    ),
    "probe that is off": (
        "targets:\n- name: a\n  kind: b\n  probes:\n  - kind: tcp", [],
        ["main.yaml:5: targets[0].probes[0].kind: switched off here: broken"],
    ),
    "probe without its parameter": (
        "targets:\n- name: a\n  kind: b\n  probes:\n  - kind: http\n    uri: x",
        [
            "main.yaml:5: targets[0].probes[0].url: is required",
            "main.yaml:6: targets[0].probes[0].uri: unknown key, did you mean 'url'?",
        ], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "errors", "warnings"), NAMES.values(), ids=NAMES.keys())
def test_names_that_nothing_has_are_found(
    tmp_path: Path, text: str, errors: list[str], warnings: list[str]
) -> None:
    checked = _check(tmp_path, text)
    assert (errors, warnings) == (_texts(tmp_path, checked.errors), _texts(tmp_path, checked.warnings))
