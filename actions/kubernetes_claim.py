"""A lease on a target: who acts on it now, and what the attempt found before it began to act.

The lease is written before the world is touched. A second execute under the same key, in this process or
another, reads there what the first one saw and wanted, and so repeats the same change or none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from actions.kubernetes_api import MissingError
from actions.kubernetes_objects import path_of, seconds_of, time_of
from oncall_agent.contract import ActionContext, PermanentError, TransientError
from oncall_agent.models import JsonObject

Json = dict[str, Any]
Ask = Callable[..., Awaitable[Json]]
PREFIX = "oncall-agent.io"
_MAX_FACTS_BYTES = 16_384
_EXTRA_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt's hold on one target.

    Attributes:
        facts: what the attempt that took it first wrote down.
        is_repeat: this key had taken it before.
    """

    facts: Json
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class Claims:
    """The leases of one kind of target in one namespace; `ask` calls the API inside the attempt's deadline."""

    ask: Ask
    namespace: str

    async def take(self, ctx: ActionContext, subject: str, action: str, facts: JsonObject) -> Claim:
        """Take the lease on `subject`, or find that this attempt has taken it before.

        Raises:
            TransientError: another attempt holds it.
        """
        name, key = lease_name(subject), _digest(ctx.idempotency_key)
        try:
            lease = await self.ask(ctx, "GET", path_of("Lease", self.namespace, name))
        except MissingError:
            lease = {}
        if _mark(lease, "attempt") == key:
            return Claim(json.loads(_mark(lease, "facts") or "{}"), is_repeat=True)
        if _is_held(lease, ctx.clock.now()):
            raise TransientError(f"another attempt holds {subject}")
        await self._write(ctx, lease, _lease(name, subject, action, key, facts, ctx))
        return Claim(dict(facts), is_repeat=False)

    async def release(self, ctx: ActionContext, subject: str) -> None:
        """Let others have the target; what was written down stays."""
        place = path_of("Lease", self.namespace, lease_name(subject))
        await self.ask(ctx, "PATCH", place, body={"spec": {"holderIdentity": ""}})

    async def last(self, ctx: ActionContext, subject: str) -> tuple[str, str, float]:
        """Give action and key digest of the last attempt on `subject`, and when it began; empty without one."""
        try:
            lease = await self.ask(ctx, "GET", path_of("Lease", self.namespace, lease_name(subject)))
        except MissingError:
            return "", "", 0.0
        began = seconds_of((lease.get("spec") or {}).get("acquireTime"))
        return _mark(lease, "action"), _mark(lease, "attempt"), began

    async def _write(self, ctx: ActionContext, old: Json, new: Json) -> None:
        name = new["metadata"]["name"]
        if not old:
            await self.ask(ctx, "POST", path_of("Lease", self.namespace), body=new)
            return
        # The version makes the later of two takers fail.
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        await self.ask(ctx, "PUT", path_of("Lease", self.namespace, name), body=new)


def lease_name(subject: str) -> str:
    """Give the name of the lease on a subject such as `Deployment/web`."""
    return f"oncall-agent-{_digest(subject)[:20]}"


def is_mine(ctx: ActionContext, key_digest: str) -> bool:
    """Say whether a lease's mark is that of this attempt."""
    return bool(key_digest) and key_digest == _digest(ctx.idempotency_key)


def _lease(name: str, subject: str, action: str, key: str, facts: JsonObject, ctx: ActionContext) -> Json:
    text = json.dumps(dict(facts), sort_keys=True)
    if len(text) > _MAX_FACTS_BYTES:
        raise PermanentError(f"more than {_MAX_FACTS_BYTES} bytes to write down before acting")
    marks = {"attempt": key, "action": action, "target": subject, "facts": text}
    now = time_of(ctx.clock.now())
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "annotations": {f"{PREFIX}/{word}": value for word, value in marks.items()},
            "labels": {"app.kubernetes.io/managed-by": "oncall-agent"},
        },
        "spec": {
            "holderIdentity": key,
            "acquireTime": now,
            "renewTime": now,
            "leaseDurationSeconds": int(ctx.seconds_left + _EXTRA_SECONDS),
        },
    }


def _is_held(lease: Json, now: float) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity"):
        return False
    return now < seconds_of(spec.get("renewTime")) + float(spec.get("leaseDurationSeconds") or 0)


def _mark(lease: Json, word: str) -> str:
    annotations = (lease.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(f"{PREFIX}/{word}", ""))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
