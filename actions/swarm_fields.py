"""The few fields of a service's specification that actions change, and the note that says who did. Pure."""

from __future__ import annotations

import copy
import json
from typing import Any

from actions.swarm_state import Service
from oncall_agent.models import JsonObject

ATTEMPT_LABEL = "oncall-agent.attempt"
BEFORE_LABEL = "oncall-agent.before"
_PATHS: dict[str, tuple[str, ...]] = {
    "force": ("TaskTemplate", "ForceUpdate"),
    "replicas": ("Mode", "Replicated", "Replicas"),
    "image": ("TaskTemplate", "ContainerSpec", "Image"),
    "memory": ("TaskTemplate", "Resources", "Limits", "MemoryBytes"),
    "cpus": ("TaskTemplate", "Resources", "Limits", "NanoCPUs"),
}


def value(spec: JsonObject, name: str) -> Any:
    """Give a field's value, 0 where it is not set."""
    found: Any = spec
    for key in _PATHS[name]:
        found = (found or {}).get(key)
    return found or 0


def values(spec: JsonObject, names: JsonObject) -> dict[str, Any]:
    """Give the values of now for the fields that are to be changed."""
    return {name: value(spec, name) for name in names}


def changed(spec: JsonObject, wanted: JsonObject, attempt: str) -> dict[str, Any]:
    """Give the specification with new values and a note of who changed it, from what.

    The note travels in the same call as the change: one without the other can't be.
    """
    fresh = _put(spec, wanted)
    labels = dict(fresh.get("Labels") or {})
    labels |= {ATTEMPT_LABEL: attempt, BEFORE_LABEL: json.dumps(values(spec, wanted), sort_keys=True)}
    return {**fresh, "Labels": labels}


def restored(spec: JsonObject, before: JsonObject) -> dict[str, Any]:
    """Give the specification with the old values and without the note."""
    fresh = _put(spec, before)
    labels = dict(fresh.get("Labels") or {})
    for label in (ATTEMPT_LABEL, BEFORE_LABEL):
        labels.pop(label, None)
    return {**fresh, "Labels": labels}


def noted_before(service: Service, attempt: str) -> dict[str, Any] | None:
    """Give the values before this attempt changed them; None when the last change was not its own."""
    if service.labels.get(ATTEMPT_LABEL) != attempt:
        return None
    try:
        found = json.loads(service.labels.get(BEFORE_LABEL, ""))
    except ValueError:
        return None
    is_ours = isinstance(found, dict) and set(found) <= set(_PATHS)
    return found if is_ours else None


def _put(spec: JsonObject, wanted: JsonObject) -> dict[str, Any]:
    fresh: dict[str, Any] = copy.deepcopy(dict(spec))
    for name, new in wanted.items():
        inner = fresh
        *folders, last = _PATHS[name]
        for key in folders:
            inner[key] = inner.get(key) or {}
            inner = inner[key]
        inner[last] = new
    return fresh
