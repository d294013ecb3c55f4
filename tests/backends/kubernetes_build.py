"""The Kubernetes components, built as one program from their Go modules at the versions of `kubernetes/`.

The Go caches of this build (some 4 GB) are a folder of its own that goes when it ends; the program stays.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from backends.base import require_command
from backends.made_once import made_once
from backends.processes import run_quietly

MODULE = Path(__file__).resolve().parent / "kubernetes"
VERSION = "v1.34.4"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
STAMP = "-X k8s.io/component-base/version.git"
FLAGS = (
    "-trimpath",
    "-mod=readonly",
    "-ldflags",
    f"-s -w {STAMP}Version={VERSION} {STAMP}Major=1 {STAMP}Minor=34",
)
TIMEOUT_SECONDS = 1_500.0


def recipe(go: str) -> str:
    """A digest of what the program is built from: compiler, flags, source, and every module with its sum."""
    parts = [run_quietly([go, "version"]), *FLAGS]
    parts += [(MODULE / name).read_text(encoding="utf-8") for name in ("go.mod", "go.sum", "main.go")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build(cache: Path) -> Path:
    """The program, from the cache or built now; raises MissingBackendError when it cannot be built."""
    go = require_command("go")
    path = cache / "go" / f"kubernetes-{recipe(go)}"
    return made_once(path, lambda target: _compile(go, target))


def install(program: Path, folder: Path) -> dict[str, str]:
    """Give the program under the name of each component, which tells it what to be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPONENTS:
        (folder / name).symlink_to(program)
    return {name: str(folder / name) for name in COMPONENTS}


def _compile(go: str, target: Path) -> None:
    caches = Path(tempfile.mkdtemp(prefix=".go-", dir=target.parent))
    given = ["CGO_ENABLED=0", "GOFLAGS=-modcacherw", f"GOMODCACHE={caches / 'mod'}"]
    given += [f"GOCACHE={caches / 'build'}", f"GOTMPDIR={caches}"]
    try:
        argv = ["env", *given, go, "-C", str(MODULE), "build", *FLAGS, "-o", str(target), "."]
        run_quietly(argv, timeout_seconds=TIMEOUT_SECONDS)
    finally:
        shutil.rmtree(caches, ignore_errors=True)
