"""Starts several backends side by side and remembers what became of each."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from backends import compose, packages
from backends.base import Backend, MissingBackendError
from backends.catalogue import ALL, NAMES

MISSING_PREFIX = "ONCALL_TEST_MISSING_"
PROGRESS_SECONDS = 15.0
"""So often, while nothing else is to be told, the names of those that are still being made."""
NOT_PROVISIONED = "not provisioned (scripts/test starts it)"


@dataclass(frozen=True)
class Provisioned:
    """What became of one backend: its variables, or the reason why it is missing."""

    name: str
    seconds: float
    variables: dict[str, str]
    missing: str | None = None


class Provisioner:
    """Installs, starts and stops a set of backends; `stop` is safe to call at any time."""

    def __init__(
        self,
        names: Iterable[str],
        cache: Path,
        show: Callable[[Provisioned], None],
        waiting: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:
        wanted = with_dependencies(names)
        self._backends: list[Backend] = [kind() for kind in ALL if kind.name in wanted]
        self._cache = cache
        self._show, self._waiting = show, waiting
        self._folder = Path(tempfile.mkdtemp(prefix="oncall-test-"))
        self._folder.chmod(0o711)

    def missing_packages(self) -> list[str]:
        """The Debian packages that are still to be installed."""
        return packages.missing_packages(need for backend in self._backends for need in backend.needs)

    def install(self) -> str | None:
        """Install them in one transaction, else backend by backend; what went wrong, or None."""
        trouble = packages.install(self.missing_packages())
        if trouble is None:
            return None
        for backend in self._backends:
            packages.install(packages.missing_packages(backend.needs))
        self._take_from_compose()
        return trouble if self.missing_packages() else None

    def _take_from_compose(self) -> None:
        """Replace what is still not installed by its container, where docker compose can run it."""
        unmet = [
            b.name for b in self._backends if packages.missing_packages(b.needs) and b.name in compose.INSTEAD
        ]
        if unmet and compose.is_available():
            self._backends = [compose.INSTEAD[b.name]() if b.name in unmet else b for b in self._backends]

    def start(self) -> list[Provisioned]:
        """Start all of them in parallel; a failure is a missing backend, never an exception."""
        pending: dict[str, Future[Provisioned]] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(self._backends))) as pool:
            for backend in self._backends:  # those it depends on come before it, see catalogue.ALL
                before = [pending[name] for name in backend.depends_on]
                pending[backend.name] = pool.submit(self._start_one, backend, before)
            results = list(self._finished(pending))
        return sorted(results, key=lambda result: NAMES.index(result.name))

    def _finished(self, pending: Mapping[str, "Future[Provisioned]"]) -> Iterator[Provisioned]:
        """Give each as it ends; tell now and then which ones are still being made."""
        running = set(pending.values())
        while running:
            ended, running = wait(running, timeout=PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            yield from (self._shown(one.result()) for one in ended)
            if running and not ended:
                self._waiting([name for name, one in pending.items() if one in running])

    def stop(self) -> None:
        """Stop all of them and remove their files."""
        with ThreadPoolExecutor(max_workers=max(1, len(self._backends))) as pool:
            list(pool.map(_stop_one, self._backends))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_one(self, backend: Backend, before: Sequence["Future[Provisioned]"]) -> Provisioned:
        needed = [one.result() for one in before]
        began = time.monotonic()
        try:
            backend.given = environment(require_real(needed))
            folder = self._folder / backend.name
            folder.mkdir(parents=True, exist_ok=True)
            variables = backend.start(folder, self._cache)
        except MissingBackendError as error:
            return Provisioned(backend.name, time.monotonic() - began, {}, str(error))
        except Exception as error:  # noqa: BLE001 - a backend's client may raise anything; it is then missing
            return Provisioned(backend.name, time.monotonic() - began, {}, f"{type(error).__name__}: {error}")
        return Provisioned(backend.name, time.monotonic() - began, variables)

    def _shown(self, result: Provisioned) -> Provisioned:
        self._show(result)
        return result


def _stop_one(backend: Backend) -> None:
    try:
        backend.stop()
    except Exception as error:  # noqa: BLE001 - the others must still be stopped
        os.write(2, f"stopping {backend.name}: {error}\n".encode())


def with_dependencies(names: Iterable[str]) -> set[str]:
    """The names and all that they depend on."""
    wanted = set(names)
    for backend in reversed(ALL):
        if backend.name in wanted:
            wanted.update(backend.depends_on)
    return wanted


def require_real(results: Sequence[Provisioned]) -> Sequence[Provisioned]:
    """Give them back; raises MissingBackendError when one of them is missing."""
    for result in results:
        if result.missing is not None:
            raise MissingBackendError(f"it needs {result.name}, which is missing: {result.missing}")
    return results


def environment(results: Iterable[Provisioned]) -> dict[str, str]:
    """The variables for the tests: those of the real backends, and a reason for each missing one."""
    variables: dict[str, str] = {}
    for result in results:
        if result.missing is None:
            variables.update(result.variables)
        else:
            variables[MISSING_PREFIX + result.name.upper()] = result.missing
    return variables
