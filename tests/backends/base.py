"""What every backend is: a name, the commands it needs, a start that returns settings, a stop."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

ABOUT_PREFIX = "ONCALL_TEST_ABOUT_"
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])


class MissingBackendError(Exception):
    """This machine cannot run the backend; the text says why and, where known, what would help."""


@dataclass(frozen=True)
class Need:
    """One Debian package and the file or command that proves it is there."""

    package: str
    proof: str

    def is_met(self) -> bool:
        """True when the command is on the search path, or a file matches the absolute pattern."""
        if self.proof.startswith("/"):
            return next(Path("/").glob(self.proof[1:]), None) is not None
        return find_command(self.proof) is not None


class Backend:
    """One backend; `start` raises MissingBackendError, `stop` may be called always."""

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]
    variables: ClassVar[tuple[str, ...]]
    fixture: ClassVar[str]
    """The fixture through which every other fixture of it goes; asking for it marks the test."""
    depends_on: ClassVar[tuple[str, ...]] = ()
    """Backends that must be real first; `given` then holds their variables."""

    given: Mapping[str, str] = MappingProxyType({})

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it with its state under `folder`; return the environment variables of the tests."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop everything that `start` started and remove its traces; nothing here."""


def find_command(name: str) -> str | None:
    """The full path of a command, sbin folders included."""
    return shutil.which(name, path=SEARCH_PATH)


def require_command(name: str) -> str:
    """The full path of a command; raises MissingBackendError when it is not there."""
    found = find_command(name)
    if found is None:
        raise MissingBackendError(f"the command {name} is not installed")
    return found


def about(name: str, text: str) -> dict[str, str]:
    """The variable that says in a few words what a real backend is."""
    return {ABOUT_PREFIX + name.upper(): text}


def cache_root() -> Path:
    """The folder for what outlives a run: $ONCALL_CACHE, or oncall-agent in the user's cache."""
    given = os.environ.get("ONCALL_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "oncall-agent"
