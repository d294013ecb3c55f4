"""`python -m reference [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from reference.blocks import ROOT, filled, pages_with_blocks
from reference.pages import FOLDER, PAGES


def wanted() -> dict[Path, str]:
    """Give every page that is written from the code, whole or in part."""
    whole = {FOLDER / name: render() for name, render in PAGES.items()}
    return whole | {page: filled(page.read_text(encoding="utf-8")) for page in pages_with_blocks()}


def main(arguments: list[str]) -> int:
    """Write the pages, or say which are not what the code says."""
    if arguments not in ([], ["--check"]):
        print("usage: scripts/docs [--check]", file=sys.stderr)
        return 2
    changed = []
    for file, text in wanted().items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            changed.append(str(file.relative_to(ROOT)))
            if not arguments:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    said = "not up to date" if arguments else "written"
    print(f"{said}: {', '.join(changed)}" if changed else "every page is what the code says")
    return 1 if arguments and changed else 0


sys.exit(main(sys.argv[1:]))
