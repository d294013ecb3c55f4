"""MySQL itself, which Debian has in its unstable suite only: its programs, the libraries that they need, empty files.

It never touches this machine's own packages: it lies in the cache, under a name that is a digest of what it was made
from, and runs with the libraries beside it.
"""

import fcntl
import hashlib
import platform
import re
import shutil
import tempfile
from pathlib import Path

from backends import image_archive
from backends.base import MissingBackendError, require_command
from backends.processes import run_quietly

SUITE = "sid"
PACKAGES = ("mysql-server-core",)
LEFT_OUT = ("/usr/share/*",)
KEPT = ("/usr/share/mysql*",)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TIMEOUT_SECONDS = 600.0


class Installation:
    """A folder with the programs and an initialised, empty set of a server's files."""

    def __init__(self, folder: Path) -> None:
        self._root, self.files = folder / "root", folder / "files"

    def command(self) -> list[str]:
        """How to run the server's program with its own libraries."""
        libraries = self._root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
        loader = next(iter(sorted(libraries.glob("ld-linux-*.so.*"))), None)
        if loader is None:
            raise MissingBackendError("the MySQL packages hold no program loader for this machine")
        server = [str(loader), "--library-path", str(libraries), str(self._root / "usr" / "sbin" / "mysqld")]
        messages = f"--lc-messages-dir={self._root / 'usr' / 'share' / 'mysql'}"
        return [*server, "--no-defaults", messages, "--secure-file-priv=NULL", "--mysqlx=OFF"]


def installed(cache: Path) -> Installation:
    """The installation, from the cache or made now; raises MissingBackendError when it cannot be made."""
    folder = cache / f"mysql-{_recipe()}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".mysql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Programs find their files beside them: a mark, written last, says that the folder is whole.
        if not (folder / "whole").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            (folder / "whole").touch()
            for older in cache.glob("mysql-*"):
                if older != folder:
                    shutil.rmtree(older, ignore_errors=True)
    return Installation(folder)


def _make(folder: Path) -> None:
    argv = [require_command("mmdebstrap"), "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in image_archive._apt_options()]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    argv += [f"--dpkgopt=path-include={pattern}" for pattern in KEPT]
    folder.mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w", suffix=".list") as listed:
        listed.write(f"{_source_line()}\n")
        listed.flush()
        run_quietly([*argv, SUITE, str(folder / "root"), listed.name], timeout_seconds=TIMEOUT_SECONDS)
    made = Installation(folder)
    first = [
        "--initialize-insecure",
        "--user=root",
        f"--datadir={made.files}",
        "--innodb-redo-log-capacity=8M",
    ]
    run_quietly([*made.command(), *first], timeout_seconds=TIMEOUT_SECONDS)
    # Every server needs an id of its own; it makes one when there is none.
    (made.files / "auto.cnf").unlink(missing_ok=True)


def _recipe() -> str:
    parts = [platform.machine(), SUITE, *PACKAGES, *LEFT_OUT, *KEPT, _source_line()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _source_line() -> str:
    """The unstable suite on the mirror that this machine's own packages come from."""
    text = image_archive._sources().read_text(encoding="utf-8")
    found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[[^\]]*\]\s+)?)(\S+)", text, re.MULTILINE)
    if found is None:
        raise MissingBackendError("the Debian package sources name no mirror")
    return f"deb [signed-by={KEYRING}] {found[1]} {SUITE} main"
