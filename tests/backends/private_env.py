"""The private environment that pytest runs in, made by scripts/private-env."""

from pathlib import Path

from backends.processes import run_quietly

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 1800.0


def python() -> str:
    """The environment's python, after installing the locked packages when they are not there yet."""
    script = str(ROOT / "scripts" / "private-env")
    return run_quietly([script, "dev"], timeout_seconds=TIMEOUT_SECONDS, show_errors=True).strip()
