"""One run of `scripts/test`: install and start everything side by side, run pytest, stop everything."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from backends import selection
from backends.base import cache_root
from backends.catalogue import NAMES
from backends.processes import RUNNING, processes_with, wait_until
from backends.provision import Provisioned, Provisioner, environment

ROOT = Path(__file__).resolve().parents[2]
RUN_VARIABLE = "ONCALL_TEST_RUN"
INTERRUPTED = 130
TESTS_FAILED = 1
MOST_REPEATED = 8
LAST_WORDS_SECONDS = 20.0
LONGEST_SECONDS = 4500.0
"""A run that hangs outside any test, where no test's own limit ends it, is ended after this."""


def run(*, with_backends: bool, pytest_arguments: Sequence[str]) -> int:
    """Run the tests; the exit code is pytest's, or 1 when a required backend is missing."""
    try:
        selection.required(os.environ)
    except ValueError as error:
        say(str(error))
        return 2
    if not with_backends:
        return Pytest(pytest_arguments, os.environ).run()
    provisioner = Provisioner(NAMES, cache_root(), show, show_waiting)
    with _interruptible():
        try:
            return _run_with(provisioner, pytest_arguments)
        except KeyboardInterrupt:
            say("interrupted: stopping the backends")
            return INTERRUPTED
        finally:
            _ignore_signals()
            RUNNING.reopen()
            provisioner.stop()


def _run_with(provisioner: Provisioner, pytest_arguments: Sequence[str]) -> int:
    began = time.monotonic()
    results = _provision(provisioner)
    say(f"ready after {time.monotonic() - began:.1f} s")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ONCALL_TEST_")}
    environ.pop("DOCKER_HOST", None)  # no test may reach an engine that this run did not choose
    environ |= environment(results)
    code = Pytest(pytest_arguments, environ).run()
    if code == TESTS_FAILED and (failed := few_failed(ROOT)):
        say(f"again, alone, what may have failed for lack of time only: {', '.join(failed)}")
        code = Pytest(("-n0", "--last-failed", *pytest_arguments), environ).run()
        say(f"failed at first{'' if code else ', passed alone'}: {', '.join(failed)}")
    missing = {result.name for result in results if result.missing is not None}
    lacking = sorted(missing & selection.required(os.environ))
    if lacking:
        say(f"required backends are missing: {', '.join(lacking)}")
    return code or int(bool(lacking))


def few_failed(root: Path) -> list[str]:
    """The tests that failed in the last run, if they are so few that the machine may be why: else none.

    Real servers on a small machine miss a deadline now and then. A rule that is broken fails alone as well.
    """
    file = root / ".pytest_cache" / "v" / "cache" / "lastfailed"
    failed = sorted(json.loads(file.read_text())) if file.exists() else []
    return failed if len(failed) <= MOST_REPEATED else []


def _provision(provisioner: Provisioner) -> list[Provisioned]:
    began = time.monotonic()
    absent = provisioner.missing_packages()
    if absent:
        say(f"installing {' '.join(absent)}")
        trouble = provisioner.install()
        say(f"{'packages':<14} {time.monotonic() - began:6.1f} s  {trouble or 'installed'}")
    return provisioner.start()


class Pytest:
    """The pytest process and whatever its tests leave behind."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self._token = secrets.token_hex(8)
        self._environ = {**environ, RUN_VARIABLE: self._token}
        self._argv = [sys.executable, "-m", "pytest", *spread(arguments), *arguments]

    def run(self) -> int:
        """Run it to its end; an interruption reaches it once, and it may still tear down."""
        process = subprocess.Popen(self._argv, cwd=ROOT, env=self._environ)
        try:
            return process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            self._end(process)
            say(f"pytest did not end in {LONGEST_SECONDS:g} s")
            return 1
        except KeyboardInterrupt:
            self._end(process, has_heard=sys.stdin.isatty())
            raise
        finally:
            self._stop_strays()

    def _end(self, process: subprocess.Popen[bytes], *, has_heard: bool = False) -> None:
        """Interrupt it, unless a terminal has sent it the signal already, and let it tear down."""
        if not has_heard:
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_SECONDS)

    def _stop_strays(self) -> None:
        """End what still runs with this run's token in its environment: an interrupted test's servers."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            strays = processes_with(RUN_VARIABLE, self._token)
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not strays or wait_until(
                lambda: not processes_with(RUN_VARIABLE, self._token), timeout_seconds=5.0
            ):
                return


def spread(arguments: Sequence[str]) -> list[str]:
    """How many workers: one per core, at least two since most tests wait; none under a debugger."""
    if {"--pdb", "-s", "-n0"} & set(arguments):
        return []
    workers = os.environ.get("ONCALL_TEST_WORKERS") or str(min(8, max(2, os.cpu_count() or 2)))
    return ["-n", workers, "--dist", "loadgroup"]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """INT and TERM both end running commands and raise KeyboardInterrupt, once."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        RUNNING.interrupt()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def show(result: Provisioned) -> None:
    """One line of progress."""
    state = "ready" if result.missing is None else f"missing: {result.missing}"
    say(f"{result.name:<14} {result.seconds:6.1f} s  {state}")


def show_waiting(names: Sequence[str]) -> None:
    """Say what is still being made; the first time it may take minutes."""
    say(f"... still starting: {', '.join(names)}")


def say(text: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
