"""Python servers in environments of their own: made from a file of pinned, hashed requirements, kept in the cache."""

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from backends.base import find_command
from backends.processes import run_quietly

REQUIREMENTS = Path(__file__).with_name("requirements")
INSTALL_TIMEOUT_SECONDS = 600.0


def requirements_environment(
    name: str, cache: Path, finish: Callable[[Path], None] = lambda folder: None
) -> Path:
    """The folder of the environment of `requirements/<name>.txt`, made now if it is not whole yet.

    Args:
        finish: adds to the fresh folder what else is slow to make, such as an empty database.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"python-{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".python-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # An environment can't be renamed: a mark, written last, says that it is whole.
        if not (folder / "whole").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, requirements)
            finish(folder)
            (folder / "whole").touch()
            _remove_older(folder, name)
    return folder


def _install(folder: Path, requirements: Path) -> None:
    run_quietly([sys.executable, "-m", "venv", str(folder)])
    python, quiet = str(folder / "bin" / "python"), ["--quiet", "--no-deps", "--require-hashes"]
    uv = find_command("uv")
    installer = [uv, "pip"] if uv else [python, "-m", "pip"]
    options = ["--python", python] if uv else ["--disable-pip-version-check", "--no-input", "--no-compile"]
    command = [*installer, "install", *options, *quiet, "--requirement", str(requirements)]
    run_quietly(command, timeout_seconds=INSTALL_TIMEOUT_SECONDS)


def _remove_older(folder: Path, name: str) -> None:
    for older in folder.parent.glob(f"python-{name}-*"):
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)
