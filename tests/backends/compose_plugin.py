"""Docker Compose: that of this machine, else a newer Debian's, taken from its package without installing anything."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from backends import image_archive
from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.compose_servers import CHANGES, IMAGE, build, variables
from backends.engine_api import Engine, EngineError
from backends.made_once import made_once
from backends.processes import run_quietly

SUITE = "trixie"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class ComposeFile(Backend):
    """The plugin, and the image of Debian's servers in the engine of the run; tests bring the services up."""

    name = "compose"
    fixture = "compose_environment"
    needs = (Need("mmdebstrap", "mmdebstrap"), Need("debian-archive-keyring", KEYRING))
    depends_on = ("docker",)
    variables = ("ONCALL_TEST_COMPOSE",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find or fetch the plugin, and load the image."""
        docker = require_command("docker")
        environment = {"DOCKER_HOST": self.given["ONCALL_TEST_DOCKER_HOST"], **variables()}
        if not _works(docker, {}):
            environment["DOCKER_CONFIG"] = str(_configured(folder, cache))
        if not _works(docker, environment):
            raise MissingBackendError("docker compose does not run here")
        _load(Engine(environment["DOCKER_HOST"]), build(cache))
        return {
            "ONCALL_TEST_COMPOSE": json.dumps(environment),
            **about(self.name, _version(docker, environment)),
        }


def _works(docker: str, environment: dict[str, str]) -> bool:
    try:
        return bool(_version(docker, environment))
    except MissingBackendError:
        return False


def _version(docker: str, environment: dict[str, str]) -> str:
    given = [f"{name}={value}" for name, value in environment.items()]
    return run_quietly(["env", *given, docker, "compose", "version"], timeout_seconds=20.0).strip()


def _configured(folder: Path, cache: Path) -> Path:
    """A folder of settings of the client, with the plugin."""
    plugins = folder / "client" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(made_once(cache / f"docker_compose-{SUITE}", _fetch))
    return plugins.parent


def _fetch(target: Path) -> None:
    """Take the plugin out of the package of the newer suite; the lists of this machine's apt stay as they are."""
    with tempfile.TemporaryDirectory(prefix="oncall-apt-") as name:
        place = Path(name)
        for part in ("lists/partial", "cache/archives/partial"):
            (place / part).mkdir(parents=True)
        (place / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
        (place / "apt.conf").write_text(_settings(place))
        apt = ["env", f"APT_CONFIG={place / 'apt.conf'}", "apt-get", "-q"]
        run_quietly([*apt, "update"], timeout_seconds=300.0)
        fetch = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", name, *apt]
        run_quietly([*fetch, "download", f"docker-compose/{SUITE}"], timeout_seconds=300.0)
        (package,) = place.glob("docker-compose_*.deb")
        run_quietly(["dpkg", "-x", str(package), str(place / "unpacked")])
        shutil.copy2(place / "unpacked" / PLUGIN, target)


def _settings(place: Path) -> str:
    own = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": place / "lists",
        "Dir::State::status": os.devnull,
        "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root",
    }
    lines = [f'{key} "{value}";' for key, value in own.items()]
    return "\n".join([*lines, *image_archive._apt_options(), ""])


def _mirror() -> str:
    found = re.search(r"(?m)^(?:URIs:\s*|deb\s+(?:\[[^]]*\]\s*)?)(\S+)", image_archive._sources().read_text())
    if found is None:
        raise MissingBackendError("no mirror of Debian is configured")
    return found[1]


def _load(engine: Engine, archive: Path) -> None:
    repository, tag = IMAGE.split(":")
    label = f"oncall-agent.test.recipe={archive.stem}"
    try:
        if (engine.image_labels(IMAGE) or {}).get("oncall-agent.test.recipe") != archive.stem:
            with archive.open("rb") as content:
                engine.import_image(content, repository, tag, [*CHANGES, f"LABEL {label}"])
    except EngineError as error:
        raise MissingBackendError(f"loading {IMAGE}: {error}") from error
