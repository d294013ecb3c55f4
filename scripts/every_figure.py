"""Runs the benchmarks one after another and shows what they found as one table. See scripts/bench."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import Figure, echo, show
from load import echo_rate

HERE = Path(__file__).resolve().parent
ECHO_SECONDS = 2.0
QUICK = {
    "decide": ("--batches", "5", "--size", "200"),
    "executors": ("--calls", "100", "--rounds", "2"),
    "ingest": ("--seconds", "1", "--rounds", "1"),
    "flow": ("--seconds", "2"),
    "growth": ("--stored", "5000", "--past", "20000", "--seconds", "4"),
    "crash": ("--kills", "5"),
    "recovery": ("--rounds", "1"),
}


def run(name: str, arguments: tuple[str, ...]) -> list[Figure]:
    """Run one benchmark; one that breaks is a figure that is wrong."""
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, str(HERE / f"bench_{name}.py"), "--json", str(file), *arguments]
        code = subprocess.run(command, check=False).returncode
        if not file.exists():
            return [Figure("ran to its end", f"exit code {code}", "yes", verdict=False, exact=True)]
        return [Figure(**figure) for figure in json.loads(file.read_text())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and short, for continuous integration")
    parser.add_argument("--only", action="append", choices=tuple(QUICK), help="one of them; may be repeated")
    options = parser.parse_args()
    limit = echo(echo_rate(ECHO_SECONDS))
    found = {name: run(name, QUICK[name] if options.quick else ()) for name in options.only or QUICK}
    print()
    show([limit])
    for name, figures in found.items():
        print(f"-- {name}")
        show(figures)
    decisive = (
        figure for figures in found.values() for figure in figures if figure.exact or not options.quick
    )
    return 0 if all(figure.verdict for figure in decisive) else 1


if __name__ == "__main__":
    sys.exit(main())
