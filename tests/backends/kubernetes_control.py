"""The control plane of the test cluster: etcd, an API server with its own CA, controllers, scheduler."""

import json
import secrets
import ssl
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import MissingBackendError, require_command
from backends.processes import Server, accepts_connections, free_port

START_SECONDS = 90.0
EXTENSIONS = {
    "ca": "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n",
    "server": "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n",
}


@dataclass(frozen=True)
class Access:
    """How to reach an API server as somebody."""

    url: str
    ca: Path
    token: str = field(repr=False)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        kind: str = "application/json",
        seconds: float = 10.0,
    ) -> Any:
        """Ask once and give the answer's JSON; raises OSError, as urllib does, for every failure."""
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            request.add_header("Content-Type", kind)
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, content, timeout=seconds, context=context) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def is_ready(self) -> bool:
        """True when the server says that it is ready."""
        try:
            return bool(self.request("GET", "/readyz") == "ok")
        except (OSError, urllib.error.HTTPError):
            return False

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a file that kubectl and its like understand."""
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        named = {
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        found = {"apiVersion": "v1", "kind": "Config", "current-context": "test", **named}
        path.write_text(json.dumps(found))
        path.chmod(0o600)
        return path


class Keys:
    """A CA, a server certificate for 127.0.0.1, the key of service accounts, and two users' tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.accounts, self.tokens = folder / "ca.crt", folder / "sa.key", folder / "tokens.csv"
        self.admin, self.nobody = secrets.token_hex(16), secrets.token_hex(16)

    def make(self) -> None:
        """Make them all."""
        self.folder.mkdir(parents=True)
        self._openssl("genrsa", "-out", str(self.accounts), "2048")
        self._certificate("ca", "-signkey", "ca.key")
        self._certificate("server", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        lines = [f'{self.admin},admin,1,"system:masters"', f"{self.nobody},nobody,2"]
        self.tokens.write_text("\n".join(lines) + "\n")
        self.tokens.chmod(0o600)

    def _certificate(self, name: str, *signing: str) -> None:
        key, request, extensions = f"{name}.key", f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(EXTENSIONS[name])
        subject = f"/CN=oncall-agent test {name}"
        self._openssl(
            "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", subject
        )
        self._openssl(
            "x509",
            "-req",
            "-in",
            request,
            "-days",
            "2",
            "-extfile",
            extensions.name,
            "-out",
            f"{name}.crt",
            *signing,
        )

    def _openssl(self, *arguments: str) -> None:
        argv = [require_command("openssl"), *arguments]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise MissingBackendError(f"openssl failed: {done.stderr.strip()[-200:]}")


def apiserver(program: str, folder: Path, keys: Path, etcd_url: str, port: int) -> Server:
    """An API server on this port, not yet started."""
    accounts = str(keys / "sa.key")
    argv = [
        program,
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
    ]
    argv += [f"--secure-port={port}", f"--cert-dir={folder}", "--endpoint-reconciler-type=none"]
    argv += [f"--tls-cert-file={keys / 'server.crt'}", f"--tls-private-key-file={keys / 'server.key'}"]
    argv += [
        "--service-cluster-ip-range=10.200.0.0/24",
        "--service-account-issuer=https://kubernetes.default",
    ]
    argv += [f"--service-account-signing-key-file={accounts}", f"--service-account-key-file={accounts}"]
    argv += [
        f"--token-auth-file={keys / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--profiling=false",
    ]
    argv += ["--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true"]
    argv += ["--disable-admission-plugins=ServiceAccount"]
    return Server(folder.name, argv, folder=folder)


class ControlPlane:
    """etcd, the API server, the controllers and the scheduler; `access` is the administrator's."""

    def __init__(self, programs: dict[str, str], folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.keys = Keys(folder / "keys")
        self.etcd_url = f"http://127.0.0.1:{free_port()}"
        self.port = free_port()
        self._servers: list[Server] = []

    @property
    def access(self) -> Access:
        """The administrator's way in."""
        return Access(f"https://127.0.0.1:{self.port}", self.keys.ca, self.keys.admin)

    def start(self) -> None:
        """Start all of them; ready when the API server is."""
        self.keys.make()
        self._start_etcd()
        folder = self._folder / "apiserver"
        server = apiserver(
            self._programs["kube-apiserver"], folder, self.keys.folder, self.etcd_url, self.port
        )
        self._started(server).start(self.access.is_ready, timeout_seconds=START_SECONDS)
        kubeconfig = self.access.write_kubeconfig(self.keys.folder / "kubeconfig")
        accounts = f"--service-account-private-key-file={self.keys.accounts}"
        self._start_client(
            "kube-controller-manager", kubeconfig, accounts, "--horizontal-pod-autoscaler-sync-period=1s"
        )
        self._start_client("kube-scheduler", kubeconfig)

    def stop(self) -> None:
        """Stop them, etcd last."""
        while self._servers:
            self._servers.pop().stop()

    def _started(self, server: Server) -> Server:
        self._servers.append(server)
        return server

    def _start_etcd(self) -> None:
        folder, peer = self._folder / "etcd", f"http://127.0.0.1:{free_port()}"
        argv = [require_command("etcd"), "--data-dir", str(folder / "state"), "--unsafe-no-fsync"]
        argv += ["--listen-client-urls", self.etcd_url, "--advertise-client-urls", self.etcd_url]
        argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        argv += ["--initial-cluster", f"default={peer}"]
        port = int(self.etcd_url.rpartition(":")[2])
        server = self._started(Server("etcd", argv, folder=folder))
        server.start(lambda: accepts_connections(port), timeout_seconds=START_SECONDS)

    def _start_client(self, name: str, kubeconfig: Path, *more: str) -> None:
        folder, port = self._folder / name, free_port()
        argv = [self._programs[name], f"--kubeconfig={kubeconfig}", "--leader-elect=false", *more]
        argv += ["--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={folder}"]
        argv += ["--kube-api-qps=200", "--kube-api-burst=400"]
        server = self._started(Server(name, argv, folder=folder))
        server.start(lambda: accepts_connections(port), timeout_seconds=START_SECONDS)
