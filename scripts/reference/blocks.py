"""Code blocks that stand for a file: `<!-- file: path -->` before a block fills it with that file."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(<!-- file: (?P<path>\S+) -->\n```\w+\n).*?(?<=\n)```", re.DOTALL)


def filled(text: str) -> str:
    """Give a page with every such block as its file is now."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}{(ROOT / found['path']).read_text(encoding='utf-8').rstrip()}\n```"

    return _BLOCK.sub(fill, text)


def pages_with_blocks() -> list[Path]:
    """Give the pages that have such blocks."""
    return [
        page
        for page in sorted((ROOT / "docs").glob("*.md"))
        if "<!-- file: " in page.read_text(encoding="utf-8")
    ]
