"""Fails when a lock file misses a dependency of pyproject.toml, holds a version it forbids, or names a place.

Reads files only: it needs no network. `scripts/lock` mends what it finds.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
PLACE = re.compile(r"://|--(?:index|find|extra)")


def wanted(project: dict[str, Any], *, group: str | None, extras: bool) -> Iterator[Requirement]:
    """What a lock file must satisfy: the project's own dependencies, all its extras, one group."""
    table = project["project"]
    lines = list(table["dependencies"]) if extras else []
    for extra in table["optional-dependencies"].values() if extras else ():
        lines += extra
    lines += _group(project["dependency-groups"], group) if group else []
    for line in lines:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) != canonicalize_name(table["name"]):
            yield requirement


def _group(groups: dict[str, Any], name: str) -> list[str]:
    lines: list[str] = []
    for entry in groups[name]:
        lines += _group(groups, entry["include-group"]) if isinstance(entry, dict) else [entry]
    return lines


def complaints(name: str, requirements: Iterator[Requirement]) -> Iterator[str]:
    """One line for each thing that is wrong with a lock file."""
    path = ROOT / "locks" / name
    text = path.read_text(encoding="utf-8")
    if PLACE.search(text):
        yield f"{path.name} names a place to download from"
    pins: dict[str, list[str]] = {}
    for package, version in PINNED.findall(text):
        pins.setdefault(canonicalize_name(package), []).append(version)
    for requirement in requirements:
        versions = pins.get(canonicalize_name(requirement.name))
        if not versions:
            yield f"{path.name} lacks {requirement.name}"
        elif not all(requirement.specifier.contains(version, prereleases=True) for version in versions):
            yield f"{path.name} has {requirement.name} {', '.join(versions)}, not {requirement.specifier}"


def main() -> int:
    """Print the complaints; 1 when there are any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = [
        *complaints("runtime.txt", wanted(project, group=None, extras=True)),
        *complaints("dev.txt", wanted(project, group="dev", extras=True)),
        *complaints("build.txt", wanted(project, group="build", extras=False)),
    ]
    for line in found:
        print(f"{line}: run scripts/lock")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
