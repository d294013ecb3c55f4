"""The daemon as a process: what systemd, an operator's Ctrl-C and a second start see of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def configured(folder, **groups):
    (folder / "runbooks").mkdir()
    base = {
        "server": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'agent.db'}"},
        "backends": {"escalate": {"file": str(folder / "pages.jsonl")}},
    }
    file = folder / "oncall-agent.yaml"
    file.write_text(yaml.safe_dump({**base, **groups}))
    return file


def started(file, **environ):
    process = subprocess.Popen(
        [sys.executable, "-m", "oncall_agent", "run", "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "daemon.started":
            return process, lines
    raise AssertionError(f"did not start: {process.stderr.read().decode()} {lines}")


def ended(process, number=signal.SIGTERM):
    """Stop it; gives its exit code and the rest of its log."""
    process.send_signal(number)
    out, _ = process.communicate(timeout=40)
    return process.returncode, [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_in_order_with_exit_code_zero(tmp_path, number):
    process, _ = started(configured(tmp_path))
    code, lines = ended(process, number)
    events = [line["event"] for line in lines]
    assert (code, events[-1]) == (0, "daemon.stopped")
    assert next(line["reason"] for line in lines if line["event"] == "daemon.stopping") == number.name


def test_systemd_is_told_ready_alive_and_stopping(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        process, _ = started(
            configured(tmp_path), NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000"
        )
        told = [systemd.recv(200).split(b"\n")[0] for _ in range(3)]
        assert (told[0], told[1:]) == (b"READY=1", [b"WATCHDOG=1"] * 2)
        process.send_signal(signal.SIGTERM)
        while told[-1] != b"STOPPING=1":
            told.append(systemd.recv(200).split(b"\n")[0])
        process.communicate(timeout=40)
        assert process.returncode == 0


def test_a_second_daemon_on_the_same_file_is_refused_by_name(tmp_path):
    file = configured(tmp_path)
    first, _ = started(file)
    second = subprocess.run(
        [sys.executable, "-m", "oncall_agent", "run", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (second.returncode, "in use" in second.stderr, "Traceback" in second.stderr) == (2, True, False)
    assert ended(first)[0] == 0


def test_a_port_that_is_taken_is_one_line_and_no_traceback(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = configured(tmp_path, server={"port": taken.getsockname()[1]})
        done = subprocess.run(
            [sys.executable, "-m", "oncall_agent", "run", "--config", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, "server.port" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_it_starts_and_takes_alerts_without_any_extra_installed(tmp_path):
    """A machine with neither docker nor apprise nor psycopg2: what needs them is off and says so."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("docker", "apprise", "psycopg2"):
        (hidden / f"{name}.py").write_text(f"raise ImportError('hidden', name={name!r})\n")
    file = configured(tmp_path, backends={"docker": {}, "escalate": {}})
    process, lines = started(file, PYTHONPATH=str(hidden))
    try:
        off = {line["plugin"] for line in lines if line["event"] == "plugin.refused"}
        assert "docker.restart_container" in off
        url = f"http://127.0.0.1:{lines[-1]['port']}"
        body = (ROOT / "tests" / "payloads" / "alertmanager-firing-basic.json").read_bytes()
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/webhooks/alertmanager", body), timeout=10
        ) as answer:
            assert (answer.status, json.load(answer)["accepted"]) == (202, 1)
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            assert "docker" in json.load(answer)["parts"]["plugin:docker.restart_container"]
    finally:
        assert ended(process)[0] == 0


def test_kill_minus_nine_at_random_moments_loses_and_repeats_nothing():
    """A short run of the benchmark; the long one kills two hundred times."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_crash.py"), "--kills", "8", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=140,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_heals_three_apps_and_says_so_by_its_exit_code():
    done = subprocess.run(
        [sys.executable, "-m", "oncall_agent", "demo", "--once"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, "3 of 3 healed and verified" in done.stdout) == (0, True), (
        done.stdout + done.stderr
    )
