"""What kubelets and containerd leave on a machine, and how each trace is removed."""

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_interface
from json import loads
from pathlib import Path

from backends.base import MissingBackendError, require_command
from backends.processes import run_quietly, wait_until

CPUSET_FILES = ("cpuset.mems", "cpuset.cpus")
POOL = IPv4Network("172.27.0.0/16")
CGROUPS = Path("/sys/fs/cgroup")
SELDOM_MOUNTED = ("net_cls,net_prio", "perf_event", "hugetlb")
PREFIX = "octest-"
KERNEL_SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")


class KernelSettings:
    """The kernel settings that a kubelet changes on its machine, as they were."""

    def __init__(self) -> None:
        self._before = {name: _setting(name).read_text() for name in KERNEL_SETTINGS}

    def restore(self) -> None:
        """Write them back."""
        for name, value in self._before.items():
            with contextlib.suppress(OSError):
                _setting(name).write_text(value)


class Hierarchies:
    """The hierarchies of cgroup v1 that few machines mount.

    A systemd that boots in a container makes the kernel have them, mounted nowhere else; from then on a container
    runtime outside looks for them in vain, and does not see when a container runs out of memory.
    """

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    def mount(self) -> None:
        """Mount those that are missing where they are looked for; nothing where only cgroup v2 is used."""
        there = _hierarchies()
        if CGROUPS / "memory" not in there:
            return
        for controllers in SELDOM_MOUNTED:
            folder = CGROUPS / controllers
            if folder in there:
                continue
            folder.mkdir(exist_ok=True)
            argv = ["mount", "-t", "cgroup", "-o", controllers, "cgroup", str(folder)]
            if subprocess.run(argv, check=False, capture_output=True).returncode == 0:
                self._mounted.append(folder)
            else:
                folder.rmdir()

    def unmount(self) -> None:
        """Unmount them again, unless a node of another run has its pods there by now."""
        while self._mounted:
            folder = self._mounted.pop()
            if not list(folder.glob(f"{PREFIX}*")):
                subprocess.run(["umount", str(folder)], check=False, capture_output=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()


class Cgroup:
    """A cgroup at the top of every hierarchy, below which one kubelet keeps all of its pods."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(3)}"

    def make(self) -> None:
        """Make it, with all CPUs and memory nodes."""
        for hierarchy in _hierarchies():
            folder = hierarchy / self.name
            folder.mkdir(exist_ok=True)
            for file in CPUSET_FILES:
                if (hierarchy / file).exists() and not (folder / file).read_text().strip():
                    (folder / file).write_text((hierarchy / file).read_text())

    def processes(self) -> set[int]:
        """The processes anywhere below it."""
        found = set()
        for hierarchy in _hierarchies():
            for path in (hierarchy / self.name).rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found |= {int(word) for word in path.read_text().split()}
        return found

    def remove(self) -> None:
        """Kill what still runs in it and remove it."""
        for pid in self.processes():
            kill(pid)
        wait_until(lambda: not self.processes(), timeout_seconds=5.0)
        wait_until(self._is_gone, timeout_seconds=5.0)

    def _is_gone(self) -> bool:
        folders = [path for hierarchy in _hierarchies() for path in _folders(hierarchy / self.name)]
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not any(folder.exists() for folder in folders)


class Bridge:
    """A bridge with a free range of its own; its address is also the address of a node."""

    def __init__(self) -> None:
        self.name = f"ock8s{secrets.token_hex(3)}"
        self._ip = require_command("ip")
        self.network, self.address = POOL, ""

    def make(self) -> None:
        """Make it; raises MissingBackendError when no range is free."""
        self.network = _free_network(self._ip)
        self.address = str(self.network.network_address + 1)
        run_quietly([self._ip, "link", "add", self.name, "type", "bridge"])
        run_quietly([self._ip, "address", "add", f"{self.address}/24", "dev", self.name])
        run_quietly([self._ip, "link", "set", self.name, "up"])

    def remove(self) -> None:
        """Remove it."""
        subprocess.run([self._ip, "link", "delete", self.name], check=False, capture_output=True)


def kill_shims(folder: Path) -> None:
    """Kill the shims of the containerds that live below this folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "containerd-shim" in words[0] and any(word.startswith(f"{folder}/") for word in words):
                kill(int(path.parent.name))


def unmount_below(folder: Path) -> None:
    """Unmount everything below the folder, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), key=len, reverse=True):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def kill(pid: int) -> None:
    """Send KILL; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


def _hierarchies() -> list[Path]:
    """Where each hierarchy is mounted, wherever that is: a kubelet looks at all of them."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(words.split()[4]))
    return found


def _folders(top: Path) -> Iterator[Path]:
    """The folder and all below it, deepest first."""
    for root, _, _ in os.walk(top, topdown=False):
        yield Path(root)


def _free_network(ip: str) -> IPv4Network:
    """A /24 of the pool that no interface uses; from a random place on, since others may look, too."""
    used = [
        ip_interface(f"{address['local']}/{address['prefixlen']}").network
        for link in loads(run_quietly([ip, "-json", "address"]) or "[]")
        for address in link.get("addr_info", [])
        if address.get("family") == "inet"
    ]
    ranges = list(POOL.subnets(new_prefix=24))
    first = secrets.randbelow(len(ranges))
    for network in ranges[first:] + ranges[:first]:
        if not any(network.overlaps(other) for other in used):
            return network
    raise MissingBackendError(f"no free network in {POOL}")
