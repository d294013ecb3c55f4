"""The few calls of the Docker Engine API that provisioning needs, over its Unix socket.

Written on the standard library because provisioning runs beside the installation of the client library.
"""

import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

TIMEOUT_SECONDS = 180.0


class EngineError(Exception):
    """The engine refused a call, or did not answer."""


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """One engine, addressed as the client libraries do: `unix:///path`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._path = host.removeprefix("unix://")

    def version(self) -> str | None:
        """Its version, or None when nothing answers."""
        if not Path(self._path).exists():
            return None
        with contextlib.suppress(EngineError):
            return str(self._call("GET", "/version")["Version"])
        return None

    def image_labels(self, name: str) -> dict[str, str] | None:
        """The labels of an image, or None when the engine does not have it."""
        with contextlib.suppress(EngineError):
            config = self._call("GET", f"/images/{quote(name)}/json").get("Config") or {}
            return dict(config.get("Labels") or {})
        return None

    def import_image(self, archive: BinaryIO, repository: str, tag: str, changes: list[str]) -> None:
        """Make an image of a root file system archive."""
        query = [
            ("fromSrc", "-"),
            ("repo", repository),
            ("tag", tag),
            *(("changes", line) for line in changes),
        ]
        self._call("POST", f"/images/create?{urlencode(query)}", body=archive)

    def derive_image(self, base: str, repository: str, tag: str, changes: str) -> None:
        """Make an image that differs from another one by its settings only."""
        container = self._call("POST", "/containers/create", body={"Image": base})["Id"]
        try:
            query = urlencode({"container": container, "repo": repository, "tag": tag, "changes": changes})
            self._call("POST", f"/commit?{query}", body={})
        finally:
            self.remove_container(container)

    def containers(self, label: str | None) -> list[str]:
        """The ids of all containers, or of those with the label, running or not."""
        filters = json.dumps({"label": [label]} if label else {})
        found = self._call("GET", f"/containers/json?all=1&filters={quote(filters)}")
        return [container["Id"] for container in found]

    def remove_container(self, container: str) -> None:
        """Kill and remove a container with its anonymous volumes."""
        self._call("DELETE", f"/containers/{container}?force=1&v=1")

    def push(self, repository: str, tag: str) -> str:
        """Push an image to the registry that its name begins with; returns its digest."""
        found = self._lines("POST", f"/images/{repository}/push?{urlencode({'tag': tag})}")
        digests = [line["aux"]["Digest"] for line in found if "Digest" in line.get("aux", {})]
        if not digests:
            raise EngineError(f"pushing {repository}:{tag} gave no digest")
        return str(digests[-1])

    def swarm_init(self, address: str, heartbeat_seconds: float) -> str:
        """Make this engine the first manager of a new swarm; returns the token for workers."""
        dispatcher = {"HeartbeatPeriod": int(heartbeat_seconds * 1e9)}
        body = {"ListenAddr": address, "AdvertiseAddr": address, "Spec": {"Dispatcher": dispatcher}}
        self._call("POST", "/swarm/init", body=body)
        return self.join_token("Worker")

    def join_token(self, role: str) -> str:
        """The token for joining as `Worker` or `Manager`; only a manager knows it."""
        return str(self._call("GET", "/swarm")["JoinTokens"][role])

    def swarm_join(self, address: str, manager: str, token: str) -> None:
        """Join the swarm of a manager."""
        body = {"ListenAddr": address, "AdvertiseAddr": address, "RemoteAddrs": [manager], "JoinToken": token}
        self._call("POST", "/swarm/join", body=body)

    def node_id(self) -> str:
        """The id that this engine has in its swarm."""
        return str(self._call("GET", "/info")["Swarm"]["NodeID"])

    def remove_services(self) -> None:
        """Remove every service of the swarm."""
        for service in self._call("GET", "/services"):
            self._call("DELETE", f"/services/{service['ID']}")

    def _call(self, method: str, path: str, body: BinaryIO | dict[str, Any] | None = None) -> Any:
        return _last_json(self._text(method, path, body))

    def _lines(self, method: str, path: str) -> list[dict[str, Any]]:
        """The whole progress stream of a call; the last line alone tells a late failure."""
        text = self._text(method, path, {})
        _last_json(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def _text(self, method: str, path: str, body: BinaryIO | dict[str, Any] | None) -> str:
        content = json.dumps(body) if isinstance(body, dict) else body
        headers = {"Content-Type": "application/x-tar" if content is body else "application/json"}
        if "/push?" in path:
            headers["X-Registry-Auth"] = "e30="  # an empty object: the registry of the tests asks nobody
        connection = _SocketConnection(self._path)
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{self.host}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise EngineError(f"{method} {path}: {answer.status} {text.strip()}")
        return text


def _last_json(text: str) -> Any:
    """The answer's value; of a progress stream the last line, which alone tells a late failure."""
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        last = json.loads(text.strip().splitlines()[-1])
    if "error" in last:
        raise EngineError(str(last["error"]))
    return last
