"""Kubernetes: a control plane and real nodes with real pods, each part a process of this machine."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backends import kubernetes_build
from backends.base import Backend, MissingBackendError, Need, about
from backends.kubernetes_control import Access, ControlPlane
from backends.kubernetes_images import APP, write_archive
from backends.kubernetes_node import Node
from backends.kubernetes_traces import Hierarchies, KernelSettings
from backends.processes import wait_until

SPARE_NODE, SPARE_TAINT = "spare", "oncall-test/spare"
"""A node for tests that take one out of service: only pods that tolerate the taint go there."""
NODES = ("node1", "node2", SPARE_NODE)
READY_SECONDS = 60.0


class Kubernetes(Backend):
    """A cluster of two nodes and a spare one; RBAC is on, pods really run, images are those of `kubernetes_images`."""

    name = "kubernetes"
    fixture = "kubernetes_url"
    needs = (
        Need("docker.io", "containerd"),
        Need("runc", "runc"),
        Need("etcd-server", "etcd"),
        Need("containernetworking-plugins", "/usr/lib/cni/bridge"),
        Need("busybox-static", "/bin/busybox"),
        Need("iproute2", "ip"),
        Need("openssl", "openssl"),
    )
    variables = (
        "ONCALL_TEST_KUBERNETES_URL",
        "ONCALL_TEST_KUBERNETES_KEYS",
        "ONCALL_TEST_KUBERNETES_ADMIN",
        "ONCALL_TEST_KUBERNETES_NOBODY",
        "ONCALL_TEST_KUBERNETES_IMAGE",
    )

    def __init__(self) -> None:
        self._control: ControlPlane | None = None
        self._nodes: list[Node] = []
        self._kernel: KernelSettings | None = None
        self._hierarchies = Hierarchies()

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Build or find the program, start everything; ready when every node is."""
        if os.geteuid() != 0:
            raise MissingBackendError("a kubelet needs root")
        programs = kubernetes_build.install(kubernetes_build.build(cache), folder / "bin")
        self._kernel = KernelSettings()
        self._hierarchies.mount()
        images = folder / "images.tar"
        write_archive(images)
        self._control = ControlPlane(programs, folder)
        self._nodes = [Node(name, folder, taint=SPARE_TAINT if name == SPARE_NODE else "") for name in NODES]
        with ThreadPoolExecutor(max_workers=len(NODES) + 1) as pool:
            runtimes = [pool.submit(node.start_containerd, images) for node in self._nodes]
            self._control.start()
            for runtime in runtimes:
                runtime.result()
        for node in self._nodes:
            node.start_kubelet(programs["kubelet"], self._control.keys.folder / "kubeconfig")
        self._wait(self._control.access)
        return self._variables(self._control)

    def stop(self) -> None:
        """Stop the nodes, then the control plane, and leave the kernel's settings as they were."""
        with ThreadPoolExecutor(max_workers=len(NODES)) as pool:
            list(pool.map(Node.stop, self._nodes))
        if self._control is not None:
            self._control.stop()
        self._hierarchies.unmount()
        if self._kernel is not None:
            self._kernel.restore()

    def _wait(self, access: Access) -> None:
        is_over = wait_until(
            lambda: _are_ready(access) or any(node.fault() for node in self._nodes),
            timeout_seconds=READY_SECONDS,
        )
        faults = [node.fault() for node in self._nodes if node.fault()]
        if faults or not is_over:
            raise MissingBackendError((faults or [f"the nodes were not ready in {READY_SECONDS:g} s"])[0])

    def _variables(self, control: ControlPlane) -> dict[str, str]:
        return {
            "ONCALL_TEST_KUBERNETES_URL": control.access.url,
            "ONCALL_TEST_KUBERNETES_KEYS": str(control.keys.folder),
            "ONCALL_TEST_KUBERNETES_ADMIN": control.keys.admin,
            "ONCALL_TEST_KUBERNETES_NOBODY": control.keys.nobody,
            "ONCALL_TEST_KUBERNETES_IMAGE": APP,
            **about(self.name, f"Kubernetes {kubernetes_build.VERSION}, {len(NODES)} nodes"),
        }


def _are_ready(access: Access) -> bool:
    try:
        nodes = access.request("GET", "/api/v1/nodes")["items"]
    except OSError:
        return False
    ready = [
        node["metadata"]["name"]
        for node in nodes
        for condition in node["status"].get("conditions", [])
        if (condition["type"], condition["status"]) == ("Ready", "True")
    ]
    return set(ready) >= set(NODES)
