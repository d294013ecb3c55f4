"""Prometheus and Alertmanager from their packages; tests start instances of their own."""

import urllib.error
import urllib.request
from pathlib import Path

from backends.base import Backend, Need, about, require_command
from backends.processes import Server, free_port, version_of

READY_SECONDS = 20.0


class AlertmanagerBinary(Backend):
    """The Alertmanager program, for tests to start with a configuration of their own."""

    name = "alertmanager"
    fixture = "alertmanager_binary"
    needs = (Need("prometheus-alertmanager", "prometheus-alertmanager"),)
    variables = ("ONCALL_TEST_ALERTMANAGER_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find it; nothing is started here."""
        program = require_command("prometheus-alertmanager")
        return {"ONCALL_TEST_ALERTMANAGER_BIN": program, **about(self.name, version_of(program))}


class PrometheusBinary(Backend):
    """The Prometheus program, for tests to start with a configuration of their own."""

    name = "prometheus"
    fixture = "prometheus_binary"
    needs = (Need("prometheus", "prometheus"),)
    variables = ("ONCALL_TEST_PROMETHEUS_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find it; nothing is started here."""
        program = require_command("prometheus")
        return {"ONCALL_TEST_PROMETHEUS_BIN": program, **about(self.name, version_of(program))}


class _Instance:
    """One running program with its configuration in a folder and its web port on loopback."""

    name: str

    def __init__(self, binary: str, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_path = folder / f"{self.name}.yml"
        self._folder = folder
        self._binary = binary
        self._server: Server | None = None

    def start(self, config: str) -> None:
        """Write the configuration and start; ready when /-/ready answers 200."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(config, encoding="utf-8")
        self._server = Server(self.name, [self._binary, *self._options()], folder=self._folder)
        self._server.start(self.is_ready, timeout_seconds=READY_SECONDS)

    def is_ready(self) -> bool:
        """True when the program says so itself."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def reload(self, config: str) -> None:
        """Write another configuration and have it read; raises HTTPError when it is refused."""
        self.config_path.write_text(config, encoding="utf-8")
        request = urllib.request.Request(f"{self.url}/-/reload", method="POST")
        with urllib.request.urlopen(request, timeout=5.0):
            pass

    def log(self) -> str:
        """Everything it printed so far."""
        return (self._folder / f"{self.name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """Stop it; safe to call twice."""
        if self._server is not None:
            self._server.stop()

    def _options(self) -> list[str]:
        raise NotImplementedError


class Alertmanager(_Instance):
    """An Alertmanager on a free loopback port, without gossip."""

    name = "alertmanager"
    fixture = "alertmanager_binary"

    def _options(self) -> list[str]:
        return [
            f"--config.file={self.config_path}",
            f"--storage.path={self._folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--web.external-url={self.url}",
            "--cluster.listen-address=",
        ]


class Prometheus(_Instance):
    """A Prometheus on a free loopback port that resends a firing alert every second."""

    name = "prometheus"
    fixture = "prometheus_binary"

    def _options(self) -> list[str]:
        return [
            f"--config.file={self.config_path}",
            f"--storage.tsdb.path={self._folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--web.external-url={self.url}",
            "--web.enable-lifecycle",
            "--rules.alert.resend-delay=1s",
        ]
