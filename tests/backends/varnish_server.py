"""Varnish from its package, with the module that purges by tags; tests start instances of their own."""

from pathlib import Path

from backends.base import Backend, Need, about, require_command
from backends.nginx_server import said
from backends.processes import Server, accepts_connections, free_port

TAG_MODULE = "/usr/lib/*/varnish/vmods/libvmod_xkey.so"
READY_SECONDS = 30.0  # it compiles its configuration with the C compiler
CONFIG = """
vcl 4.1;
import xkey;
backend origin {{ .host = "127.0.0.1"; .port = "{origin}"; }}
acl purgers {{ "127.0.0.1"; }}
sub vcl_recv {{
  if (req.method == "PURGE") {{
    if (client.ip !~ purgers || req.url ~ "^/locked/") {{ return (synth(403)); }}
    if (req.http.X-Tag) {{ set req.http.X-Count = xkey.purge(req.http.X-Tag); return (synth(200)); }}
    return (purge);
  }}
}}
sub vcl_backend_response {{ set beresp.ttl = 10m; }}
sub vcl_deliver {{ set resp.http.X-Cache = "MISS"; if (obj.hits > 0) {{ set resp.http.X-Cache = "HIT"; }} }}
"""


class VarnishBinary(Backend):
    """The Varnish program, for tests to start in front of an origin of their own."""

    name = "varnish"
    fixture = "varnish_binary"
    needs = (Need("varnish", "varnishd"), Need("varnish-modules", TAG_MODULE))
    variables = ("ONCALL_TEST_VARNISH_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find it; nothing is started here."""
        program = require_command("varnishd")
        return {"ONCALL_TEST_VARNISH_BIN": program, **about(self.name, said(program, "-V"))}


class Varnish:
    """One Varnish with its state in its folder; it keeps every object for ten minutes."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._binary, self._folder = binary, folder
        self._server: Server | None = None

    def start(self, origin_port: int) -> None:
        """Start it in front of an origin on loopback."""
        path = self._folder / "default.vcl"
        path.write_text(CONFIG.format(origin=origin_port), encoding="utf-8")
        argv = [self._binary, "-F", "-j", "none", "-n", str(self._folder / "state"), "-f", str(path)]
        argv += ["-a", f"127.0.0.1:{self.port}", "-s", "malloc,16m", "-p", "thread_pool_min=5"]
        self._server = Server("varnish", argv, folder=self._folder)
        self._server.start(lambda: accepts_connections(self.port), timeout_seconds=READY_SECONDS)

    def stop(self) -> None:
        """Stop it; safe to call twice."""
        if self._server is not None:
            self._server.stop()
