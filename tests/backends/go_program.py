"""Programs built from a pinned Go module of the tree, kept in the cache under a digest of what they are made from."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from backends.base import MissingBackendError, find_command
from backends.made_once import made_once
from backends.processes import RUNNING

MODULES = Path(__file__).resolve().parent / "go"
BUILD_SECONDS = 900.0


def built(module: str, package: str, cache: Path) -> Path:
    """The program, from the cache or built now; raises MissingBackendError when it cannot be built."""
    program = cache / "go" / f"{module}-{_digest(MODULES / module, package)}"
    return made_once(program, lambda partial: _build(MODULES / module, package, partial))


def _digest(folder: Path, package: str) -> str:
    made_from = [(folder / name).read_bytes() for name in ("go.mod", "go.sum")]
    return hashlib.blake2b(b"\0".join([*made_from, package.encode()]), digest_size=8).hexdigest()


def _build(folder: Path, package: str, program: Path) -> None:
    go = find_command("go") or find_command("/usr/local/go/bin/go")
    if go is None:
        raise MissingBackendError("the Go toolchain is not installed; it is built from source")
    with tempfile.TemporaryDirectory(prefix="oncall-go-") as copy:
        # A copy, so that two checkouts and a read-only tree build alike.
        shutil.copytree(folder, f"{copy}/module")
        argv = [go, "-C", f"{copy}/module", "build", "-mod=readonly", "-buildvcs=false", "-trimpath"]
        code, output, errors = _run([*argv, "-o", str(program), package])
    if code != 0:
        raise MissingBackendError(f"go build failed: {' | '.join((errors or output).splitlines()[-3:])}")


def _run(argv: list[str]) -> tuple[int, str, str]:
    try:
        return RUNNING.run(argv, BUILD_SECONDS, subprocess.PIPE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingBackendError(f"go build: {error}") from error
