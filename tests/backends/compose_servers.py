"""One image of Debian's own servers, in which the services of the compose file run on a machine without a registry."""

import hashlib
import platform
from pathlib import Path

from backends import image_archive
from backends.base import require_command
from backends.made_once import made_once
from backends.processes import run_quietly

IMAGE = "oncall-test/servers:1"
ENTRY = Path(__file__).with_name("compose_entry.sh")
PACKAGES = (
    "curl",
    "haproxy",
    "mariadb-server",
    "memcached",
    "nginx-light",
    "postgresql",
    "prometheus",
    "prometheus-alertmanager",
    "redis-server",
    "wget",
)
SERVICES = (
    "redis",
    "redis-replica",
    "postgres",
    "mariadb",
    "mariadb-replica",
    "memcached",
    "nginx",
    "haproxy",
    "alertmanager",
    "prometheus",
)
"""The services of the compose file that can run in it."""
HOOKS = (
    f'install -m 755 {ENTRY} "$1/entry"',
    'ln -s prometheus-alertmanager "$1/usr/bin/alertmanager"',
    'mkdir -p "$1/etc/alertmanager" "$1/docker-entrypoint-initdb.d" "$1/usr/local/etc/haproxy"',
    'ln -s ../prometheus/alertmanager.yml "$1/etc/alertmanager/alertmanager.yml"',
    'rm -rf "$1"/var/lib/mysql/* "$1"/var/lib/postgresql/* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*',
    'mkdir -p "$1/var/lib/postgresql/data"',
)
CHANGES = ('ENTRYPOINT ["/entry"]', "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
TIMEOUT_SECONDS = 900.0


def build(cache: Path) -> Path:
    """The archive of its file system, from the cache or made now; raises MissingBackendError when it can't be made."""
    return made_once(cache / "images" / f"servers-{_recipe()}.tar", _bootstrapped)


def variables() -> dict[str, str]:
    """What makes the compose file use it."""
    names = {service.partition("-")[0].upper() for service in SERVICES}
    return {f"ONCALL_{name}_IMAGE": IMAGE for name in sorted(names)}


def _recipe() -> str:
    parts = [
        image_archive._codename(),
        platform.machine(),
        *PACKAGES,
        ENTRY.read_text(),
        *image_archive.LEFT_OUT,
    ]
    hooks = [hook.replace(str(ENTRY), ENTRY.name) for hook in HOOKS]
    made_from = "\n".join([*parts, *hooks, image_archive._sources().read_text()])
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def _bootstrapped(target: Path) -> None:
    argv = [require_command("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in image_archive._apt_options()]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in image_archive.LEFT_OUT]
    argv += [f"--customize-hook={hook}" for hook in HOOKS]
    argv += [image_archive._codename(), str(target), str(image_archive._sources())]
    run_quietly(argv, timeout_seconds=TIMEOUT_SECONDS)
