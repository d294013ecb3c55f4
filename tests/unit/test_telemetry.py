"""What is logged is bounded, free of secrets, and in the catalogue."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import pytest

import actions
import oncall_agent
from oncall_agent.contract import Secret
from oncall_agent.contract.secret import remember
from oncall_agent.telemetry import log
from oncall_agent.telemetry.catalogue import EVENTS
from oncall_agent.telemetry.metrics import Metrics


@pytest.fixture
def lines():
    stream = io.BytesIO()
    sink = log.configure("info", stream)

    def read():
        sink.close()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    sink.close(0.01)


def test_a_line_is_json_with_time_level_and_fields(lines):
    log.logger(incident_id="i").info("alert.accepted", alerts=2)
    (line,) = lines()
    assert (line["event"], line["level"], line["incident_id"], line["alerts"]) == (
        "alert.accepted",
        "info",
        "i",
        2,
    )
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"password": "pa55word"}, "pa55word"),
        ({"detail": "used t0ken-from-file"}, "t0ken-from-file"),
        ({"deep": {"list": ["t0ken-from-file"]}}, "t0ken-from-file"),
        ({"value": Secret("visible")}, "visible"),
        ({"Authorization": "Bearer abc"}, "abc"),
    ],
)
def test_secrets_are_taken_out(lines, fields, secret):
    remember(Secret("t0ken-from-file"))
    log.logger().info("executor.spoke", **fields)
    assert secret not in json.dumps(lines())


def test_a_line_is_bounded(lines):
    log.logger().info(
        "executor.spoke", said="x" * 1_000_000, many={str(i): "y" * 2_000 for i in range(1_000)}
    )
    assert len(json.dumps(lines()[0])) <= log.MAX_LINE


def test_a_stream_that_nobody_reads_loses_lines_and_not_the_daemon():
    class Closed(io.RawIOBase):
        def write(self, _):
            raise BrokenPipeError

    sink = log.LineSink(Closed())
    sink.write(b"one\n")
    sink.close()
    assert sink.dropped == 1


def test_every_event_of_the_code_is_in_the_catalogue():
    """And every event of the catalogue is said somewhere."""
    said = {"log.dropped"}
    packages = (Path(oncall_agent.__file__).parent, Path(actions.__file__).parent)
    for file in (file for package in packages for file in package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            is_log = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_log and node.func.attr in ("info", "warning", "error") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    said.add(first.value)
    assert set(EVENTS) == said


def test_no_metric_has_an_id_or_a_target_as_label():
    text = Metrics().render().decode()
    assert "oncall_agent_" in text
    assert not any(f"{word}=" in text for word in ("incident_id", "target", "attempt_id", "fingerprint"))
