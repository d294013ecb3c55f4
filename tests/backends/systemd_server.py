"""A booted systemd in a container of this run's engine; its bus is a socket in a folder of the host.

Only the container's own branch of the hierarchy `systemd` is its own to write: the host's whole cgroup file
system is never handed in, since a systemd that finds it there remounts it read-only for everybody.
"""

import contextlib
from pathlib import Path

from backends import systemd_archive
from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.docker_engine import RUN_LABEL
from backends.engine_api import Engine
from backends.processes import run_quietly, wait_until

REPOSITORY = "oncall-test/systemd"
FOLDERS = {
    "bus": "/run/dbus",
    "units": "/usr/local/lib/systemd/system",
    "journal": "/var/log/journal",
    "rules": "/etc/polkit-1/rules.d",
    "shared": "/srv/shared",
}
"""Folder of the host -> where it lies in the container."""
READY_SECONDS = 60.0
HIERARCHY = Path("/sys/fs/cgroup/systemd")


class Systemd(Backend):
    """One systemd as PID 1; tests write units of their own into its folder `units`."""

    name = "systemd"
    fixture = "systemd_folder"
    needs = (Need("mmdebstrap", "mmdebstrap"), Need("systemd", "journalctl"))
    variables = ("ONCALL_TEST_SYSTEMD_FOLDER", "ONCALL_TEST_SYSTEMD_CONTAINER")
    depends_on = ("docker",)

    def __init__(self) -> None:
        self._docker: list[str] = []
        self._container = ""

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Boot it; ready when it says so."""
        host = self.given["ONCALL_TEST_DOCKER_HOST"]
        archive = systemd_archive.build(cache)
        self._docker = [require_command("docker"), "-H", host]
        image = f"{REPOSITORY}:{archive.stem}"
        if Engine(host).image_labels(image) is None:
            changes = ["-c", 'CMD ["/sbin/init"]', "-c", "ENV container=docker"]
            run_quietly([*self._docker, "import", *changes, str(archive), image])
        folder.chmod(0o755)
        self._container = run_quietly([*self._docker, "run", *self._options(folder), image]).strip()
        if not wait_until(self._is_up, timeout_seconds=READY_SECONDS):
            raise MissingBackendError(f"systemd did not boot in {READY_SECONDS:g} s: {self._said()}")
        return {
            "ONCALL_TEST_SYSTEMD_FOLDER": str(folder),
            "ONCALL_TEST_SYSTEMD_CONTAINER": self._container,
            **about(self.name, f"{self._inside('systemctl', '--version').splitlines()[0]}, in a container"),
        }

    def stop(self) -> None:
        """Let it shut down, then remove it."""
        if self._container:
            with contextlib.suppress(MissingBackendError):
                run_quietly([*self._docker, "stop", "-t", "10", self._container])
            with contextlib.suppress(MissingBackendError):
                run_quietly([*self._docker, "rm", "-f", "-v", self._container])
        self._container = ""

    def _options(self, folder: Path) -> list[str]:
        options = ["-d", "--network", "none", "--stop-signal", "SIGRTMIN+3"]
        options += ["--label", f"{RUN_LABEL}={self.given['ONCALL_TEST_DOCKER_RUN']}"]
        options += [word for path in ("/run", "/run/lock", "/tmp") for word in ("--tmpfs", path)]
        options += _cgroup_options()
        for name, inside in FOLDERS.items():
            (folder / name).mkdir()
            (folder / name).chmod(0o755)
            options += ["-v", f"{folder / name}:{inside}"]
        return options

    def _is_up(self) -> bool:
        with contextlib.suppress(MissingBackendError):
            # A unit that can't work in a container makes it "degraded", with a failing exit code.
            state = self._inside("sh", "-c", "systemctl is-system-running; true").strip()
            return state in ("running", "degraded")
        return False

    def _said(self) -> str:
        with contextlib.suppress(MissingBackendError):
            return self._inside("sh", "-c", "systemctl --failed --no-legend; true")[-300:]
        return "it does not run"

    def _inside(self, *argv: str) -> str:
        return run_quietly([*self._docker, "exec", self._container, *argv], timeout_seconds=20.0)


def _cgroup_options() -> list[str]:
    if not HIERARCHY.is_dir():
        return ["--privileged", "--cgroupns", "private"]
    options = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"]
    return [*options, "--tmpfs", "/sys/fs/cgroup:rw,mode=755", "-v", f"{HIERARCHY}:{HIERARCHY}:rw"]


def bus_address(folder: Path) -> str:
    """Address of its system bus, from the host."""
    return f"unix:path={folder / 'bus' / 'system_bus_socket'}"
