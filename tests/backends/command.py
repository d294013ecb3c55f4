"""The command line of `python -m backends`."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

from backends import session
from backends.base import cache_root
from backends.catalogue import NAMES
from backends.processes import wait_until
from backends.provision import Provisioner, environment

NO_BACKENDS = "--no-backends"
PID_VARIABLE = "ONCALL_TEST_PROVISIONER_PID"
UP_TIMEOUT_SECONDS = 900.0


def main(argv: list[str]) -> int:
    """Run one verb; returns the exit code."""
    if argv[:1] == ["test"]:
        own = [word for word in argv[1:] if word != NO_BACKENDS]
        return session.run(with_backends=NO_BACKENDS not in argv, pytest_arguments=own)
    options = _parser().parse_args(argv)
    verbs = {"up": _up, "down": _down}
    return verbs[options.verb](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backends", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("test", help="what scripts/test runs: [--no-backends] [pytest arguments]")
    up = verbs.add_parser("up", help="start the backends, write their variables, stay until TERM")
    up.add_argument("--env", type=Path, required=True, help="file that gets one `export NAME=value` per line")
    up.add_argument("--only", default=",".join(NAMES), help="comma list of backends")
    up.add_argument("--keep", action="store_true", help="stay in the background; `down` stops it")
    down = verbs.add_parser("down", help="stop what `up --keep` started")
    down.add_argument("--env", type=Path, required=True, help="the file that `up` wrote")
    return parser


def _up(options: argparse.Namespace) -> int:
    if options.keep:
        return _up_in_background(options)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    provisioner = Provisioner(options.only.split(","), cache_root(), session.show)
    try:
        provisioner.install()
        results = provisioner.start()
        _write_env(options.env, {**environment(results), PID_VARIABLE: str(os.getpid())})
        stopped.wait()
    finally:
        options.env.unlink(missing_ok=True)
        provisioner.stop()
    return 0


def _up_in_background(options: argparse.Namespace) -> int:
    options.env.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "backends", "up", "--env", str(options.env), "--only", options.only]
    log_path = options.env.with_suffix(".log")
    with log_path.open("wb") as log:
        started = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    wait_until(lambda: options.env.exists() or started.poll() is not None, timeout_seconds=UP_TIMEOUT_SECONDS)
    sys.stdout.write(log_path.read_text())
    return 0 if options.env.exists() else 1


def _down(options: argparse.Namespace) -> int:
    lines = dict(line.removeprefix("export ").split("=", 1) for line in options.env.read_text().splitlines())
    pid = int(lines[PID_VARIABLE])
    os.kill(pid, signal.SIGTERM)
    gone = wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout_seconds=60.0)
    return 0 if gone else 1


def _write_env(path: Path, variables: dict[str, str]) -> None:
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines))
    partial.replace(path)
