"""Toxiproxy: a relay that is told over HTTP how to spoil a connection."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from backends.base import Backend, about
from backends.go_program import built
from backends.processes import Server, accepts_connections, free_port

PACKAGE = "github.com/Shopify/toxiproxy/v2/cmd/server"


class Toxiproxy(Backend):
    """One server of this run; each test makes proxies of its own on it."""

    name = "toxiproxy"
    fixture = "toxiproxy_url"
    needs = ()
    variables = ("ONCALL_TEST_TOXIPROXY_URL",)

    def __init__(self) -> None:
        self._server: Server | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Build it unless the cache has it; ready when its API answers."""
        program = built("toxiproxy", PACKAGE, cache)
        port = free_port()
        self._server = Server(
            "toxiproxy", [str(program), "-host", "127.0.0.1", "-port", str(port)], folder=folder
        )
        self._server.start(lambda: accepts_connections(port))
        url = f"http://127.0.0.1:{port}"
        return {"ONCALL_TEST_TOXIPROXY_URL": url, **about(self.name, f"toxiproxy {_pinned()}")}

    def stop(self) -> None:
        """Stop it, and with it every proxy."""
        if self._server is not None:
            self._server.stop()


class ToxicProxy:
    """One proxy on that server, in front of a loopback port; healthy until a toxic is added."""

    def __init__(self, api: str, name: str, upstream: str) -> None:
        self._api, self._name = api, name
        made = self._send("POST", "/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": upstream})
        self.address: str = made["listen"]
        self.port = int(self.address.rpartition(":")[2])

    def add(self, kind: str, *, stream: str = "downstream", **attributes: int) -> None:
        """Add a toxic: latency, timeout, reset_peer, bandwidth, slicer, limit_data."""
        body = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._send("POST", f"/proxies/{self._name}/toxics", body)

    def heal(self) -> None:
        """Remove every toxic and listen again."""
        for toxic in self._send("GET", f"/proxies/{self._name}/toxics"):
            self._send("DELETE", f"/proxies/{self._name}/toxics/{toxic['name']}")
        self._send("POST", f"/proxies/{self._name}", {"enabled": True})

    def refuse(self) -> None:
        """Close the port: connecting is refused."""
        self._send("POST", f"/proxies/{self._name}", {"enabled": False})

    def remove(self) -> None:
        """Take it away."""
        self._send("DELETE", f"/proxies/{self._name}")

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._api + path, data=content, method=method)
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def _pinned() -> str:
    module = PACKAGE.partition("/cmd/")[0]
    words = (Path(__file__).parent / "go" / "toxiproxy" / "go.mod").read_text(encoding="utf-8").split()
    return words[words.index(module) + 1]
