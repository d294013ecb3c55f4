"""The main path with nothing faked: Prometheus sees it, Alertmanager posts it, a container is really healed."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from contextlib import suppress

import aiohttp
import pytest
import yaml
from backends.processes import free_port
from scenes.lamp import House

from oncall_agent.daemon import Daemon
from oncall_agent.settings.load import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.backend("docker"),
    pytest.mark.backend("alertmanager"),
    pytest.mark.backend("prometheus"),
]

APP = """
import http.server, threading
hoard = []
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/grow":
            threading.Thread(target=lambda: [hoard.append(bytearray(b"x" * 4_000_000)) for _ in range(1000)]).start()
        body = b"app_well 1\\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), App).serve_forever()
"""
SERVICES = ("crashed", "hung", "greedy")
RULES = {
    "groups": [
        {
            "name": "apps",
            "rules": [
                {
                    "alert": "AppDown",
                    "expr": "up{job='apps'} == 0",
                    "for": "1s",
                    "labels": {"severity": "critical"},
                    "annotations": {"summary": "{{ $labels.service }} does not answer"},
                }
            ],
        }
    ]
}
RUNBOOK = {
    "name": "app-down",
    "class": "container-down",
    "match": {"alertname": "AppDown"},
    "target_kind": "docker_container",
    "candidates": [
        {"action": "docker.start_or_unpause", "prior": 0.9},
        {"action": "docker.restart_container", "params": {"stop_seconds": 2}, "prior": 0.6},
    ],
}


def start_app(run_container, service, port):
    return run_container(
        ["python3", "-c", APP],
        ports={"8000/tcp": ("127.0.0.1", port)},  # a port of its own choice would change with every start
        mem_limit="96m",
        memswap_limit="96m",
        init=True,
        healthcheck={
            "test": ["CMD", "curl", "-fsS", "-m", "1", "http://127.0.0.1:8000/metrics"],
            "interval": 1_000_000_000,
            "timeout": 2_000_000_000,
            "retries": 2,
        },
        labels={"service": service},
    )


def answers(url):
    with suppress(OSError):
        return urllib.request.urlopen(url, timeout=1).status == 200
    return False


async def until(condition, seconds, *, what):
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


def configuration(folder, containers, ports):
    return {
        "server": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'agent.db'}"},
        "autonomy": {"default": "auto"},
        "policy": {"noise_scale": 0.01},
        "sources": {
            "alertmanager": {
                "kind": "alertmanager",
                "auth": {"kind": "bearer", "token": "env:ACCEPTANCE_TOKEN"},
            }
        },
        "backends": {
            "docker": {"host": os.environ["ONCALL_TEST_DOCKER_HOST"]},
            "escalate": {"file": str(folder / "pages.jsonl")},
        },
        "targets": [
            {
                "name": service,
                "kind": "docker_container",
                "service": service,
                "address": {"container": containers[service].name},
                "settle_seconds": 2,
                "settle_interval_seconds": 0.5,
                "probes": [
                    {"kind": "docker"},
                    {"kind": "http", "url": f"http://127.0.0.1:{ports[service]}/metrics"},
                ],
            }
            for service in SERVICES
        ],
    }


def scrapes(ports, alertmanager_port, rules):
    apps = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"service": service}} for service, port in ports.items()
    ]
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]
            },
            "scrape_configs": [{"job_name": "apps", "static_configs": apps}],
        }
    )


def routing(url):
    webhook = {
        "url": f"{url}/webhooks/alertmanager",
        "send_resolved": True,
        "http_config": {"authorization": {"type": "Bearer", "credentials": "acceptance-token"}},
    }
    route = {"receiver": "agent", "group_by": ["service"], "group_wait": "1s", "group_interval": "1s"}
    return yaml.safe_dump({"route": route, "receivers": [{"name": "agent", "webhook_configs": [webhook]}]})


async def test_a_crashed_a_hung_and_a_greedy_container_are_healed_with_evidence(
    tmp_path, monkeypatch, run_container, prometheus, alertmanager
):
    monkeypatch.setenv("ACCEPTANCE_TOKEN", "acceptance-token")
    ports = {service: free_port() for service in SERVICES}
    containers = {service: start_app(run_container, service, port) for service, port in ports.items()}
    for service, port in ports.items():
        await until(
            lambda port=port: answers(f"http://127.0.0.1:{port}/metrics"), 20, what=f"{service} never came up"
        )
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "apps.yaml").write_text(yaml.safe_dump([RUNBOOK]))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    file = tmp_path / "oncall-agent.yaml"
    file.write_text(yaml.safe_dump(configuration(tmp_path, containers, ports)))
    async with Daemon(load(file, {})) as daemon, aiohttp.ClientSession() as session:
        await asyncio.to_thread(alertmanager.start, routing(daemon.address))
        await asyncio.to_thread(prometheus.start, scrapes(ports, alertmanager.port, tmp_path / "rules.yaml"))
        await asyncio.to_thread(fall_ill, containers, ports)
        agent = House(daemon, session)
        stories = await all_ended(agent)
        for service, story in stories.items():
            assert story["incident"]["state"] == "resolved", story
            evidence = story["attempts"][-1]
            assert (evidence["before"]["healthy"], evidence["after"]["healthy"]) == (False, True)
            assert answers(f"http://127.0.0.1:{ports[service]}/metrics")
        actions = {service: story["attempts"][-1]["attempt"]["action"] for service, story in stories.items()}
        assert actions == {
            "crashed": "docker.start_or_unpause",
            "hung": "docker.restart_container",
            "greedy": "docker.start_or_unpause",
        }
        await all_cleared(agent)
        assert (await agent.get("/api/v1/conservation"))["balanced"]
        # Before the daemon goes: a sender that connects while it closes would leave a socket to nobody.
        for sender in (prometheus, alertmanager):
            await asyncio.to_thread(sender.stop)


def fall_ill(containers, ports):
    containers["crashed"].kill()
    containers["hung"].exec_run(["pkill", "-STOP", "-x", "python3"])
    with suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{ports['greedy']}/grow", timeout=2).read()


async def all_ended(agent):
    """Wait until there is one final incident per service; gives their stories by service."""
    stories = {}
    for _ in range(9000):
        page = await agent.get("/api/v1/incidents?state=final")
        for item in page["items"]:
            stories[item["target"]] = await agent.get(f"/api/v1/incidents/{item['id']}")
        if len(stories) == len(SERVICES):
            return stories
        await asyncio.sleep(0.01)
    raise AssertionError(f"only {sorted(stories)} ended: {(await agent.get('/api/v1/incidents'))['items']}")


async def all_cleared(agent):
    """Wait until Alertmanager has said of every incident that its alert is over."""
    for _ in range(4000):
        items = (await agent.get("/api/v1/incidents"))["items"]
        if all(item["firing_count"] == 0 for item in items):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the alerts never cleared")
