"""systemd is told what it asked for."""

from __future__ import annotations

import os
import socket

import pytest

from oncall_agent import sdnotify


def test_states_reach_the_socket(tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        assert sdnotify.notify("READY=1", "STATUS=serving")
        assert listener.recv(100) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all"])
def test_nobody_listening_is_no_error(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sdnotify.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("3000000", None, 3.0), ("3000000", "1", None), ("", None, None), ("abc", None, None)],
)
def test_the_watchdog_period_is_ours_only(monkeypatch, usec, pid, expected):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert sdnotify.watchdog_seconds() == expected
