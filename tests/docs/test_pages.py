"""What the documentation names exists: links, anchors, files, verbs, options, keys, metrics, log events."""

import re
from pathlib import Path

import pytest
from docs.pages import HAND_WRITTEN, PAGES, ROOT, commands, inline_code, name, prose
from pydantic import BaseModel
from reference.blocks import filled, pages_with_blocks
from reference.telemetry_pages import instruments, metric_name
from reference.text import model_in
from typer.main import get_command

from oncall_agent.cli.app import app
from oncall_agent.settings.model import Settings
from oncall_agent.telemetry.catalogue import EVENTS

_FOLDERS = ("oncall_agent/", "actions/", "config/", "docs/", "scripts/", "tests/", "locks/")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not _leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = [word for text in inline_code(page) for word in text.split() if word.startswith(_FOLDERS)]
    assert [path for path in named if not list(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize(
    ("place", "words"), commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_exists_with_its_options(place: str, words: list[str]) -> None:
    command = get_command(app)
    while words and getattr(command, "commands", None) and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert not getattr(command, "commands", None) or set(words) & known, f"{place}: no verb is named"
    assert [word for word in words if word.startswith("--") and word not in known] == [], place


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    groups = {field for field, info in Settings.model_fields.items() if model_in(info.annotation)} - {
        "sources",
        "targets",
    }
    dotted = [text for text in inline_code(page) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", text)]
    assert [key for key in dotted if key.partition(".")[0] in groups and not _is_key(key)] == []


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name)
def test_every_metric_that_is_named_exists(page: Path) -> None:
    known = {metric_name(one) for one in instruments()}
    named = re.findall(r"\boncall_agent_[a-z_]+\b", page.read_text(encoding="utf-8"))
    assert [metric for metric in named if metric not in {*known, "oncall_agent_flags"}] == []


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name)
def test_every_log_event_that_is_named_exists(page: Path) -> None:
    nouns = {event.partition(".")[0] for event in EVENTS} - {"store", "log"}
    written = {*EVENTS, *_timeline_names()}
    named = [text for text in inline_code(page) if re.fullmatch(r"[a-z]+\.[a-z_]+", text)]
    assert [text for text in named if text.partition(".")[0] in nouns and text not in written] == []


@pytest.mark.parametrize("page", pages_with_blocks(), ids=name)
def test_a_block_that_stands_for_a_file_is_that_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run scripts/docs"


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = [text for text in inline_code(page) if re.fullmatch(r"test_\w+", text)]
    known = {found for file in ROOT.glob("tests/*/test_*.py") for found in _tests_in(file)}
    assert [test for test in named if test not in known] == []


def test_every_benchmark_stands_on_the_page_of_figures() -> None:
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    assert [
        file.name for file in (ROOT / "scripts").glob("bench_*") if f"scripts/{file.name}" not in page
    ] == []


def _timeline_names() -> set[str]:
    """Give what the code writes into the timeline of an incident: the same form of name, another place."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "oncall_agent").rglob("*.py")]
    return {found for text in texts for found in re.findall(r'"([a-z]+\.[a-z]+ed)"', text)}


def _tests_in(file: Path) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def _is_key(key: str) -> bool:
    model: type[BaseModel] | None = Settings
    for part in key.split("."):
        if model is None or part not in model.model_fields:
            return False
        model = model_in(model.model_fields[part].annotation)
    return True
