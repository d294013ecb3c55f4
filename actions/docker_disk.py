"""What lies on an engine's disk, which of it nothing uses, and in what order it goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from actions.docker_engine import Api, objection
from actions.docker_settings import DockerSettings
from actions.docker_time import seconds_of
from oncall_agent.models import JsonObject

_HALTED = ("exited", "dead", "created")
_MAX_PIECES = 500
_MAX_EVENTS = 1_000
_IMAGE_TRACES = ("image:delete", "image:untag", "builder:prune")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that holds the engine's data.

    Attributes:
        used: fraction in use, of what others than root may use.
    """

    path: str
    used: float
    total_bytes: int

    def bytes_above(self, target: float) -> int:
        """Give how many bytes have to go until the fraction in use is below `target`."""
        return max(0, int((self.used - target) * self.total_bytes) + 1)


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that can be removed.

    Attributes:
        kind: container, dangling (an image without a name), image, cache.
        names: what to remove, in order; an image goes with its last name.
        used_at: epoch seconds when it was last of use, as far as the engine knows.
        size: bytes that its removal frees, not counting what others share.
    """

    kind: Literal["container", "dangling", "image", "cache"]
    names: tuple[str, ...]
    size: int
    used_at: float

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return self.names[0]

    def as_fact(self) -> dict[str, Any]:
        """Give it as a line of the listing."""
        return {"kind": self.kind, "name": self.name[:100], "bytes": self.size, "used_at": int(self.used_at)}

    def remove(self, api: Api) -> None:
        """Remove it, without force and without volumes."""
        if self.kind == "container":
            api.remove_container(self.name, v=False, force=False)
        elif self.kind == "cache":
            _remove_cache(api, self.name)
        else:
            for name in self.names:
                api.remove_image(name, force=False)


def disk_of(settings: DockerSettings, engine_root: str) -> Disk | None:
    """Measure the engine's disk; None when it can't be seen from here."""
    path = settings.data_root or (engine_root if _is_local(settings.host) else "")
    if not path or not Path(path).is_dir():
        return None
    found = os.statvfs(path)
    usable = found.f_blocks - found.f_bfree + found.f_bavail
    if usable <= 0:
        return None
    return Disk(path, 1 - found.f_bavail / usable, usable * found.f_frsize)


def pieces_of(api: Api, settings: DockerSettings, now: float) -> list[Piece]:
    """List what nothing uses. Blocking; one call for the sizes, one for each stopped container."""
    found = api.df()
    halted = [one for one in found.get("Containers") or [] if one.get("State") in _HALTED][:_MAX_PIECES]
    inspected = ((one, api.inspect_container(one["Id"])) for one in halted)
    containers = [_container(one, detail, now) for one, detail in inspected if _may_go(detail, settings)]
    images = _images(found.get("Images") or [], settings)
    return [*containers, *images, *_cache(found.get("BuildCache") or [])][:_MAX_PIECES]


def chosen(pieces: Iterable[Piece], needed: int, max_bytes: int) -> list[Piece]:
    """Give the pieces to remove: longest unused first, until enough is freed or the bound is reached."""
    plan: list[Piece] = []
    taken = 0
    for piece in sorted(pieces, key=lambda one: (one.used_at, one.name)):
        if taken >= needed:
            break
        if piece.size > 0 and taken + piece.size <= max_bytes:
            plan.append(piece)
            taken += piece.size
    return plan


def was_pruned(api: Api, since: float, now: float) -> bool:
    """Say whether something was pruned in that time, as far as the engine remembers.

    A container that died in the same time ended by itself, and was not one that had been stopped for long.
    """
    found = api.events(since=f"{since:.6f}", until=f"{now:.6f}", decode=True)
    seen = [
        (f"{one.get('Type')}:{one.get('Action')}", (one.get("Actor") or {}).get("ID"))
        for one in islice(found, _MAX_EVENTS)
    ]
    died = {who for what, who in seen if what == "container:die"}
    return any(
        what in _IMAGE_TRACES or (what == "container:destroy" and who not in died) for what, who in seen
    )


def _may_go(inspected: JsonObject, settings: DockerSettings) -> bool:
    """Leave alone what is protected, and what owns a volume: without it nobody would find the volume again."""
    has_volume = any(mount.get("Type") == "volume" for mount in inspected.get("Mounts") or [])
    is_dead = inspected["State"].get("Status") == "dead"
    return not has_volume and (is_dead or not objection(inspected, settings))


def _container(listed: JsonObject, inspected: JsonObject, now: float) -> Piece:
    ended = seconds_of(inspected["State"].get("FinishedAt", "")) or float(listed.get("Created") or now)
    name = str(inspected["Name"]).lstrip("/")
    return Piece("container", (name,), int(listed.get("SizeRw") or 0), ended)


def _images(listed: Iterable[JsonObject], settings: DockerSettings) -> Iterator[Piece]:
    for image in listed:
        labels = image.get("Labels") or {}
        is_protected = str(labels.get(settings.protected_label, "")).lower() == "true"
        # -1: the engine did not count.
        if is_protected or int(image.get("Containers", -1)) != 0:
            continue
        tags = tuple(tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>")
        own = int(image.get("Size") or 0) - max(0, int(image.get("SharedSize") or 0))
        created = float(image.get("Created") or 0)
        yield Piece("image" if tags else "dangling", tags or (str(image["Id"]),), own, created)


def _cache(listed: Iterable[JsonObject]) -> Iterator[Piece]:
    for entry in listed:
        if entry.get("InUse") or entry.get("Shared"):
            continue
        used = seconds_of(str(entry.get("LastUsedAt") or entry.get("CreatedAt") or ""))
        yield Piece("cache", (str(entry["ID"]),), int(entry.get("Size") or 0), used)


def _remove_cache(api: Api, entry: str) -> None:
    # The client's own method has no filters.
    filters = json.dumps({"id": [entry]})
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/build/prune",
        params={"filters": filters, "all": "true"},
        timeout=api.timeout,
    )
    api._raise_for_status(answer)  # noqa: SLF001 - the library's mapping to its errors has no public name


def _is_local(host: str) -> bool:
    parts = urlsplit(host)
    return parts.scheme == "unix" or parts.hostname in _LOCAL_HOSTS
