"""The pages of the documentation, taken apart: text, links, code blocks, commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HAND_WRITTEN = [
    page for page in PAGES if "Written by scripts/docs" not in page.read_text(encoding="utf-8")[:80]
]
_FENCE = re.compile(
    r"^(?P<marks>(?:<!-- [^\n]* -->\n)*)```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_CHECK = re.compile(r"<!-- check: (.*?) -->")


@dataclass(frozen=True)
class Block:
    """One code block; `check` says how it is tested."""

    page: Path
    line: int
    language: str
    check: str
    text: str

    @property
    def id(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks_of(page) if block.language in languages]


def _blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        check = _CHECK.search(found["marks"])
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], check[1] if check else "", found["text"])


def prose(page: Path) -> str:
    """Give the text of a page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands() -> list[tuple[str, list[str]]]:
    """Give every command line of oncall-agent, with where it stands."""
    found = []
    for block in blocks("bash", "console", "sh"):
        for line in block.text.splitlines():
            for part in re.split(r"&&|\||;", line):
                first = part.split()[:1]
                if first and Path(first[0]).name == "oncall-agent":
                    found.append((block.id, shlex.split(part, comments=True)[1:]))
    for page in HAND_WRITTEN:
        found += [
            (name(page), shlex.split(one)[1:]) for one in inline_code(page) if one.startswith("oncall-agent ")
        ]
    return found
