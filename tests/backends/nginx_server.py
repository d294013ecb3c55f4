"""nginx and HAProxy from their packages; tests start instances of their own."""

import os
import socket
import subprocess
from pathlib import Path

from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.processes import Server, accepts_connections, free_port

READY_SECONDS = 10.0


class NginxBinary(Backend):
    """The nginx program, for tests to start with a configuration of their own."""

    name = "nginx"
    fixture = "nginx_binary"
    needs = (Need("nginx-light", "nginx"),)
    variables = ("ONCALL_TEST_NGINX_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find it; nothing is started here."""
        program = require_command("nginx")
        return {"ONCALL_TEST_NGINX_BIN": program, **about(self.name, said(program, "-v"))}


class HaproxyBinary(Backend):
    """The HAProxy program, for tests to start with a configuration of their own."""

    name = "haproxy"
    fixture = "haproxy_binary"
    needs = (Need("haproxy", "haproxy"),)
    variables = ("ONCALL_TEST_HAPROXY_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find it; nothing is started here."""
        program = require_command("haproxy")
        return {"ONCALL_TEST_HAPROXY_BIN": program, **about(self.name, said(program, "-v"))}


class Nginx:
    """One nginx with everything that it writes in its folder; `user` runs it as somebody else than root."""

    def __init__(self, binary: str, folder: Path, *, user: int | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder, self.config_path, self.pid_path = folder, folder / "nginx.conf", folder / "nginx.pid"
        self._user = user
        self.argv = [binary, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(self.config_path)]
        self._server: Server | None = None

    def start(self, http: str) -> None:
        """Write `http` into the http block and start; `{port}` in it is the port of this instance."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(self._config(http.replace("{port}", str(self.port))), encoding="utf-8")
        if self._user is not None:
            _give(self.folder, self._user)
        self._server = Server("nginx", [*self._as_user(), *self.argv], folder=self.folder)
        self._server.start(lambda: accepts_connections(self.port), timeout_seconds=READY_SECONDS)

    @property
    def pid(self) -> int:
        """The master process."""
        return int(self.pid_path.read_text())

    def stop(self) -> None:
        """Stop it; safe to call twice."""
        if self._server is not None:
            self._server.stop()

    def _as_user(self) -> list[str]:
        if self._user is None:
            return []
        return ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"]

    def _config(self, http: str) -> str:
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{name}_temp_path {self.folder}/{name}_temp;" for name in paths)
        user = "user root;" if self._user is None and os.geteuid() == 0 else ""
        return (
            f"{user}\ndaemon off;\nworker_processes 1;\npid {self.pid_path};\n"
            f"events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{temporary}\n{http}\n}}\n"
        )


class Haproxy:
    """One HAProxy with a stats socket in its folder."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket_path = folder / "stats.sock"
        self._binary, self._folder = binary, folder
        self._server: Server | None = None

    def start(self, config: str) -> None:
        """Write the configuration and start; `{port}` and `{socket}` in it are those of this instance."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "haproxy.cfg"
        text = config.replace("{port}", str(self.port)).replace("{socket}", str(self.socket_path))
        path.write_text(text, encoding="utf-8")
        self._server = Server("haproxy", [self._binary, "-db", "-f", str(path)], folder=self._folder)
        self._server.start(self._is_ready, timeout_seconds=READY_SECONDS)

    def _is_ready(self) -> bool:
        return self.socket_path.exists() and accepts_connections(self.port)

    def ask(self, command: str) -> str:
        """Send one command to the stats socket as its administrator."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(self.socket_path))
            connection.sendall(f"{command}\n".encode())
            chunks = []
            while chunk := connection.recv(65_536):
                chunks.append(chunk)
        return b"".join(chunks).decode()

    def stop(self) -> None:
        """Stop it; safe to call twice."""
        if self._server is not None:
            self._server.stop()


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def said(program: str, flag: str) -> str:
    """What a program says of its version under this flag: the first line."""
    try:
        said = subprocess.run([program, flag], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingBackendError(f"{program}: {error}") from error
    return (said.stdout + said.stderr).strip().splitlines()[0][:70]
