"""The command line: exit codes and errors that say what is wrong, whatever it is given."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from oncall_agent.cli.app import app

EXAMPLE = Path(__file__).parents[2] / "config" / "oncall-agent.yaml"


def run(*arguments, env=None, given=None):
    return CliRunner().invoke(app, list(arguments), env=env, input=given)


class Answers(BaseHTTPRequestHandler):
    """Answers each path with what the test wrote down, and keeps what was posted."""

    routes: dict = {}
    posted: list = []

    def do_GET(self):
        status, body = self.routes.get(
            self.path.split("?")[0], (404, error("not_found", "there is no such thing"))
        )
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.posted.append(
            (self.path, json.loads(self.rfile.read(length)), self.headers.get("Authorization"))
        )
        self.do_GET()

    def log_message(self, *_):
        pass


def error(code, message):
    return {"error": {"code": code, "message": message, "detail": {}}}


@pytest.fixture
def daemon():
    Answers.routes, Answers.posted = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_shipped_example_is_valid():
    result = run("check-config", str(EXAMPLE))
    assert (result.exit_code, "ok" in result.output) == (0, True), result.output


def test_a_broken_configuration_names_file_line_and_key(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("server:\n  port: high\n")
    result = run("check-config", str(file))
    assert result.exit_code == 2
    assert f"{file}:2: server.port" in result.output.replace("\n", "")


@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_a_configuration_that_is_no_file_is_bad_usage(tmp_path, path):
    result = run("check-config", str(tmp_path / path))
    assert (result.exit_code, "Traceback" in result.output) == (2, False)


def test_running_on_a_broken_configuration_ends_before_anything_starts(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("targets: nothing\n")
    assert run("run", "--config", str(file)).exit_code == 2


def test_the_schema_is_json():
    assert json.loads(run("check-config", "--schema").output)["type"] == "object"


def test_actions_are_listed_with_their_contract_score():
    told = json.loads(run("actions", "list", "--json").output)
    by_id = {action["id"]: action for action in told["actions"]}
    assert by_id["watch.wait"]["scorecard"]["dry_run"] == "done"
    assert "nothing was touched" in by_id["watch.wait"]["scorecard"]["rollback_restores"]
    assert run("actions", "list").exit_code == 0


def test_an_unknown_action_is_bad_usage():
    result = run("actions", "show", "docker.destroy_everything")
    assert (result.exit_code, "no action" in result.output) == (2, True)


@pytest.mark.parametrize("verb", [["incidents", "list"], ["approve", "x"], ["pause"], ["simulate", "storm"]])
def test_no_daemon_is_one_line_and_exit_code_one(verb):
    result = run(*verb, "--url", "http://127.0.0.1:9")
    assert (result.exit_code, "no daemon answers" in result.output, "Traceback" in result.output) == (
        1,
        True,
        False,
    )


def test_an_address_that_is_no_url_is_refused():
    result = run("incidents", "list", "--url", "file:///etc/passwd")
    assert (result.exit_code, "no http" in result.output) == (1, True)


def test_an_unknown_incident_is_bad_usage(daemon):
    result = run("incidents", "show", "nope", "--url", daemon)
    assert (result.exit_code, "not_found" in result.output) == (2, True)


def test_a_refusal_of_the_daemon_is_told(daemon):
    Answers.routes["/api/v1/incidents/i/approve"] = (409, error("conflict", "it is decided already"))
    result = run("approve", "i", "--url", daemon)
    assert (result.exit_code, "it is decided already" in result.output) == (1, True)


def test_the_kill_switch_posts_what_it_says_with_the_token_of_the_environment(daemon):
    Answers.routes["/api/v1/control"] = (200, {"paused": True, "draining": False})
    result = run("pause", "--reason", "odd", "--url", daemon, env={"ONCALL_AGENT_TOKEN": "abc"})
    assert result.exit_code == 0, result.output
    assert Answers.posted == [("/api/v1/control", {"paused": True, "reason": "odd"}, "Bearer abc")]
    assert "paused" in result.output


def test_something_else_answering_is_no_daemon(daemon):
    Answers.routes["/api/v1/incidents"] = (200, b"<html>")
    result = run("incidents", "list", "--url", daemon)
    assert (result.exit_code, "no oncall-agent" in result.output) == (1, True)


@pytest.mark.parametrize(("equal", "code"), [(True, 0), (False, 1)])
def test_explain_ends_with_one_when_the_decision_can_not_be_recomputed(daemon, equal, code):
    scored = {"candidate": {"action": "a.b", "target": "t"}, "mean": 0.1, "std": 0.2, "propensity": 1.0}
    Answers.routes["/api/v1/incidents/i/explain"] = (
        200,
        {
            "equal": equal,
            "differences": [] if equal else ["propensity"],
            "decision": {"explanation": "because [bold]", "scored": [scored], "refused": []},
        },
    )
    result = run("incidents", "explain", "i", "--url", daemon)
    assert (result.exit_code, "because [bold]" in result.output) == (code, True)


@pytest.mark.parametrize(("balanced", "code"), [(True, 0), (False, 1)])
def test_the_report_fails_when_alerts_are_missing(daemon, balanced, code):
    Answers.routes["/api/v1/conservation"] = (
        200,
        {"accepted": 3, "suppressed": {"duplicate": 1}, "balanced": balanced},
    )
    Answers.routes["/api/v1/audit/verify"] = (200, {"ok": True, "rows": 2, "first_bad": None})
    result = run("report", "--verify-audit", "--url", daemon)
    assert (result.exit_code, "whole" in result.output) == (code, True)


def test_a_storm_is_posted_as_alertmanager_would(daemon):
    Answers.routes["/webhooks/alertmanager"] = (202, {"accepted": 3, "alerts": []})
    assert run("simulate", "storm", "--count", "3", "--url", daemon).exit_code == 0
    ((_, body, _),) = Answers.posted
    assert (body["version"], len({alert["fingerprint"] for alert in body["alerts"]})) == ("4", 3)


def test_an_alert_file_that_is_no_json_is_bad_usage(tmp_path, daemon):
    file = tmp_path / "alert.json"
    file.write_text("{")
    assert run("simulate", str(file), "--url", daemon).exit_code == 2


def test_the_log_is_shown_for_people_and_foreign_lines_pass(tmp_path):
    file = tmp_path / "log"
    file.write_text(
        '{"event":"alert.accepted","level":"info","timestamp":"2026-11-21T10:00:00.1Z","alerts":2}\nplain\n[1]\n'
    )
    lines = run("logs", str(file)).output.splitlines()
    assert ("alert.accepted" in lines[0], "alerts=2" in lines[0], lines[1], lines[2]) == (
        True,
        True,
        "plain",
        "[1]",
    )
