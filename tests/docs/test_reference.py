"""The reference is what the code says, and says something of everything."""

import ast
from pathlib import Path

import pytest
from reference import actions_page, http_page, meanings, settings_page, telemetry_pages, words_page
from reference.pages import FOLDER, PAGES
from reference.text import meaningless

from oncall_agent.registry import find
from oncall_agent.telemetry.catalogue import EVENTS
from oncall_agent.web.errors import CODES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "oncall_agent"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_committed_page_is_what_the_code_says(name: str) -> None:
    assert PAGES[name]() == (FOLDER / name).read_text(encoding="utf-8"), "run scripts/docs"


def test_no_page_is_left_of_something_that_is_gone() -> None:
    assert {*PAGES, "README.md"} == {file.name for file in FOLDER.iterdir()}


@pytest.mark.parametrize("kind", settings_page.groups(), ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_means(kind) -> None:
    assert meaningless(kind) == []


@pytest.mark.parametrize("kind", actions_page.documented_models(), ids=lambda kind: kind.__name__)
def test_every_parameter_says_what_it_means(kind) -> None:
    assert meaningless(kind) == []


def test_every_system_of_an_installed_action_or_probe_has_its_settings_documented() -> None:
    plugins = find()
    found = (*plugins.actions.items(), *plugins.probers.items())
    systems = {name.partition(".")[0] for name, kind in found if kind.__module__.startswith("actions.")}
    assert systems == set(actions_page.SYSTEMS)


def test_no_action_or_probe_is_off_where_everything_is_installed() -> None:
    assert find().off == {}


def test_every_log_event_has_a_meaning_and_no_meaning_is_left_over() -> None:
    assert set(EVENTS) == set(meanings.EVENT_MEANINGS)


def test_every_log_field_has_a_meaning_and_no_meaning_is_left_over() -> None:
    assert {field for fields in EVENTS.values() for field in fields} == set(meanings.FIELD_MEANINGS)


def test_every_metric_says_what_it_means() -> None:
    assert [one for one in telemetry_pages.instruments() if not one.describe()[0].documentation] == []


@pytest.mark.parametrize("kind", words_page.vocabularies(), ids=lambda kind: kind.__name__)
def test_every_member_of_a_vocabulary_has_a_meaning(kind) -> None:
    assert {member.value for member in kind} == set(meanings.MEMBER_MEANINGS[kind.__name__])


def test_no_vocabulary_is_left_over() -> None:
    assert {kind.__name__ for kind in words_page.vocabularies()} == set(meanings.MEMBER_MEANINGS)


def test_every_error_says_what_happens_next() -> None:
    assert [kind.__name__ for kind in words_page.error_classes() if not kind.__doc__] == []


def test_every_error_code_that_a_caller_can_meet_is_documented() -> None:
    assert _codes_in_the_code() == set(meanings.CODE_MEANINGS)


def test_every_resource_of_the_api_stands_in_its_page() -> None:
    text = (FOLDER / "http.md").read_text(encoding="utf-8")
    paths = http_page.described()["paths"]
    assert [path for path in paths if f" {path}\n" not in text] == []


def _codes_in_the_code() -> set[str]:
    """Collect every `code="..."` of a call or a default, and the codes that `web.errors` gives by itself."""
    found = {*CODES.values(), "store_unavailable", "internal", "misconfigured"}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            given = _codes_of(node)
            found |= {
                one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)
            }
    return found


def _codes_of(node: ast.AST) -> list[ast.expr | None]:
    if isinstance(node, ast.keyword) and node.arg == "code":
        return [node.value]
    if isinstance(node, ast.arguments):
        pairs = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        return [default for argument, default in pairs if argument.arg == "code"]
    return []
