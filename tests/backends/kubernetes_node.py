"""One node of the test cluster: a containerd and a kubelet of its own, on a bridge of its own."""

import contextlib
import json
from pathlib import Path

from backends.base import MissingBackendError, require_command
from backends.kubernetes_images import PAUSE
from backends.kubernetes_traces import Bridge, Cgroup, kill_shims, unmount_below
from backends.processes import Server, accepts_connections, free_port, run_quietly

START_SECONDS = 60.0
CNI_PLUGINS = Path("/usr/lib/cni")

CONTAINERD = """version = 2
root = "{folder}/root"
state = "{folder}/state"
oom_score = 0
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "{folder}/cni"
"""


class Node:
    """A node; `stop` leaves no process, mount, cgroup or bridge behind."""

    def __init__(self, name: str, folder: Path, *, taint: str = "") -> None:
        self.name, self._folder, self._taint = name, folder / name, taint
        self._socket = self._folder / "containerd.sock"
        self._bridge, self._cgroup = Bridge(), Cgroup()
        self._containerd: Server | None = None
        self._kubelet: Server | None = None

    def start_containerd(self, images: Path) -> None:
        """Start the container runtime and load the images."""
        self._folder.mkdir(parents=True)
        self._bridge.make()
        self._write_cni()
        config = self._folder / "containerd.toml"
        names = {"folder": self._folder, "socket": self._socket, "pause": PAUSE, "plugins": CNI_PLUGINS}
        config.write_text(CONTAINERD.format(**names))
        argv = [require_command("containerd"), "--config", str(config)]
        self._containerd = Server("containerd", argv, folder=self._folder / "runtime")
        self._containerd.start(self._runtime_answers, timeout_seconds=START_SECONDS)
        self._ctr("images", "import", str(images))

    def start_kubelet(self, program: str, kubeconfig: Path) -> None:
        """Start the kubelet, which registers the node."""
        self._cgroup.make()
        port = free_port()
        config = self._folder / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config(port)))
        argv = [
            program,
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
        ]
        argv += [f"--root-dir={self._folder / 'kubelet'}", f"--cert-dir={self._folder / 'keys'}"]
        argv += [f"--node-ip={self._bridge.address}"]
        self._kubelet = Server("kubelet", argv, folder=self._folder / "log")
        self._kubelet.start(lambda: accepts_connections(port), timeout_seconds=START_SECONDS)

    def fault(self) -> str:
        """Why the node will never be ready; empty as long as its kubelet runs."""
        if self._kubelet is None or not self._kubelet.has_ended():
            return ""
        return f"the kubelet of {self.name} ended: {self._kubelet.log_tail()}"

    def stop(self) -> None:
        """Stop the kubelet, every container, the runtime; then undo the rest."""
        if self._kubelet is not None:
            self._kubelet.stop()
        if self._containerd is not None:
            with contextlib.suppress(MissingBackendError):
                self._remove_containers()
            self._containerd.stop()
        kill_shims(self._folder)
        self._cgroup.remove()
        unmount_below(self._folder)
        self._bridge.remove()

    def _remove_containers(self) -> None:
        running = self._ctr("tasks", "list", "--quiet").split()
        if running:
            self._ctr("tasks", "delete", "--force", *running)

    def _runtime_answers(self) -> bool:
        try:
            self._ctr("version")
        except MissingBackendError:
            return False
        return True

    def _ctr(self, *words: str) -> str:
        argv = [require_command("ctr"), "--address", str(self._socket), "--namespace", "k8s.io", *words]
        return run_quietly(argv)

    def _write_cni(self) -> None:
        ranges = [[{"subnet": str(self._bridge.network), "gateway": self._bridge.address}]]
        ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(self._folder / "addresses")}
        plugin = {"type": "bridge", "bridge": self._bridge.name, "isGateway": True, "ipam": ipam}
        found = {"cniVersion": "0.4.0", "name": self._bridge.name, "plugins": [plugin]}
        folder = self._folder / "cni"
        folder.mkdir()
        (folder / "10-test.conflist").write_text(json.dumps(found))

    def _kubelet_config(self, port: int) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup.name}",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "address": self._bridge.address,
            "port": free_port(),
            "readOnlyPort": 0,
            "healthzPort": port,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "1Mi",
                "nodefs.available": "0%",
                "imagefs.available": "0%",
                "nodefs.inodesFree": "0%",
            },
            "podLogsDir": str(self._folder / "pods"),
            "volumePluginDir": str(self._folder / "volumes"),
            "registerWithTaints": [{"key": self._taint, "effect": "NoSchedule"}] if self._taint else [],
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        }
