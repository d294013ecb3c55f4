"""From what the engine says of a container to what makes another one like it. Pure."""

from __future__ import annotations

import re
from typing import Any

from oncall_agent.models import JsonObject

_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_FROM_IMAGE = (
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "Volumes",
    "ExposedPorts",
    "Healthcheck",
    "StopSignal",
    "Shell",
)
_ENDPOINT_KEYS = {"Aliases": "aliases", "Links": "links"}


def has_anonymous_volumes(inspected: JsonObject) -> bool:
    """Say whether a volume without a name of its own hangs on it: its content would not follow."""
    mounts = inspected.get("Mounts") or []
    return any(
        mount.get("Type") == "volume" and _ANONYMOUS.fullmatch(mount.get("Name") or "") for mount in mounts
    )


def creation_body(
    old: JsonObject, old_image: JsonObject, image: str, labels: dict[str, str]
) -> dict[str, Any]:
    """Give the body of create: the container's own configuration on another image.

    What the old container only inherited from its image is left out, so that the new image's own values apply.
    """
    config = dict(old["Config"])
    config["Image"] = image
    for key in _FROM_IMAGE:
        if config.get(key) == old_image.get(key):
            config.pop(key, None)
    inherited = set(old_image.get("Env") or [])
    config["Env"] = [entry for entry in config.get("Env") or [] if entry not in inherited]
    config["Labels"] = {**_own_labels(old, old_image), **labels}
    if config.get("Hostname") == old["Id"][:12]:
        config.pop("Hostname")
    first = dict(list(_networks(old).items())[:1])
    return {**config, "HostConfig": dict(old["HostConfig"]), "NetworkingConfig": {"EndpointsConfig": first}}


def later_networks(old: JsonObject) -> dict[str, dict[str, Any]]:
    """Give the networks beyond the first with what the client's connect takes: create knows one only."""
    return {name: endpoint_of(old, name) for name in list(_networks(old))[1:]}


def endpoint_of(inspected: JsonObject, network: str) -> dict[str, Any]:
    """Give how a container hangs on a network, as the arguments of the client's connect."""
    end = _networks(inspected)[network]
    return {argument: end[key] for key, argument in _ENDPOINT_KEYS.items() if end.get(key)} | _addresses(end)


def _own_labels(old: JsonObject, old_image: JsonObject) -> dict[str, str]:
    inherited = old_image.get("Labels") or {}
    own: dict[str, str] = old["Config"].get("Labels") or {}
    return {key: value for key, value in own.items() if inherited.get(key) != value}


def _networks(old: JsonObject) -> dict[str, dict[str, Any]]:
    if str(old["HostConfig"].get("NetworkMode", "")).startswith(("host", "none", "container:")):
        return {}
    found = (old.get("NetworkSettings") or {}).get("Networks") or {}
    return {name: _endpoint(end or {}, old["Id"][:12]) for name, end in found.items()}


def _endpoint(end: JsonObject, own_alias: str) -> dict[str, Any]:
    aliases = [alias for alias in end.get("Aliases") or [] if alias != own_alias]
    kept = {"IPAMConfig": end.get("IPAMConfig"), "Links": end.get("Links"), "Aliases": aliases or None}
    return {key: value for key, value in kept.items() if value}


def _addresses(end: JsonObject) -> dict[str, Any]:
    fixed = end.get("IPAMConfig") or {}
    pairs = {"ipv4_address": fixed.get("IPv4Address"), "ipv6_address": fixed.get("IPv6Address")}
    return {key: value for key, value in pairs.items() if value}
