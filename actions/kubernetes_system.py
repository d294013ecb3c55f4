"""Kubernetes as a system: what answers, what our account may do there, and the roles that are just enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from actions.kubernetes_api import Answer, Clusters, MissingError
from actions.kubernetes_drills import DRILLS
from actions.kubernetes_grants import Need, manifests, needed
from oncall_agent.contract import Grants, Inspection, PermanentError, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_OLDEST = (1, 27)
_REVIEWS = "/apis/authorization.k8s.io/v1"
_WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_AT_ONCE, _MAX_SURPLUS = 8, 100
# What every account may do, and what asking for its own rights takes.
_HARMLESS = frozenset({"authorization.k8s.io", "authentication.k8s.io"})


class KubernetesSystem(System):
    """The cluster of the configured context."""

    name = "kubernetes"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.clusters = Clusters(settings)

    async def __aexit__(self, *_: object) -> None:
        await self.clusters.close()

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read version, clock and identity, and review every right that the actions need, and those beyond."""
        answer = await self.clusters.raw(ctx.seconds_left, "GET", "/version")
        version = _version(answer)
        return Inspection(
            product="Kubernetes",
            version=version,
            unsupported=unsupported(version),
            identity=await self._identity(ctx),
            server_time=_time(answer),
            privileges=(*await self._held(ctx, actions), *await self._surplus(ctx, actions)),
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give a service account, roles and bindings for exactly these actions."""
        return Grants(
            language="yaml",
            text=manifests(actions, self.clusters.settings),
            how_to_apply="Apply it with kubectl as an administrator; the account's namespace must be there.",
        )

    async def _ask(self, ctx: SystemContext, path: str, body: JsonObject) -> Json:
        return await self.clusters.ask(ctx.seconds_left, "POST", path, body=body)

    async def _identity(self, ctx: SystemContext) -> str:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            found = await self._ask(ctx, _WHO, body)
        except MissingError:
            return ""
        return str(((found.get("status") or {}).get("userInfo") or {}).get("username", ""))

    async def _held(self, ctx: SystemContext, actions: Sequence[str]) -> list[Privilege]:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(need: Need, needed_by: tuple[str, ...]) -> Privilege:
            async with limit:
                places = [""] if need.everywhere else list(self.clusters.settings.namespaces) or [""]
                allowed = [await self._may(ctx, need, place) for place in places]
            return Privilege(_named(need), all(allowed), needed_by)

        wanted = needed(actions)
        return await asyncio.gather(*(one(need, by) for need, by in wanted.items()))

    async def _may(self, ctx: SystemContext, need: Need, namespace: str) -> bool:
        resource, _, sub = need.resource.partition("/")
        attributes = {"group": need.group, "resource": resource, "verb": need.verb, "namespace": namespace}
        spec = {"resourceAttributes": {**attributes, **({"subresource": sub} if sub else {})}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        found = await self._ask(ctx, f"{_REVIEWS}/selfsubjectaccessreviews", body)
        return bool((found.get("status") or {}).get("allowed"))

    async def _surplus(self, ctx: SystemContext, actions: Sequence[str]) -> list[Privilege]:
        wanted = {_named(need).removesuffix(" everywhere") for need in needed(actions)}
        found: set[str] = set()
        for namespace in self.clusters.settings.namespaces or ("default",):
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectRulesReview",
                "spec": {"namespace": namespace},
            }
            answer = await self._ask(ctx, f"{_REVIEWS}/selfsubjectrulesreviews", body)
            found |= set(_granted((answer.get("status") or {}).get("resourceRules") or []))
        return [Privilege(name, held=True) for name in sorted(found - wanted)[:_MAX_SURPLUS]]


def unsupported(version: str) -> str:
    """Say why a version is not supported; empty when it is."""
    parts = re.match(r"v?(\d+)\.(\d+)", version)
    if parts is None:
        return f"its version {version!r} is not understood"
    found = (int(parts[1]), int(parts[2]))
    return "" if found >= _OLDEST else f"{found[0]}.{found[1]} is older than {_OLDEST[0]}.{_OLDEST[1]}"


def _named(need: Need) -> str:
    return f"{need.name} everywhere" if need.everywhere else need.name


def _granted(rules: Iterable[JsonObject]) -> Iterable[str]:
    for rule in rules:
        for group in rule.get("apiGroups") or []:
            if group in _HARMLESS:
                continue
            for resource in rule.get("resources") or []:
                yield from (Need(group, resource, verb).name for verb in rule.get("verbs") or [])


def _version(answer: Answer) -> str:
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not found.get("gitVersion"):
        raise PermanentError("what answers there is no Kubernetes API server")
    return str(found["gitVersion"])


def _time(answer: Answer) -> float | None:
    text = next((value for key, value in answer.headers.items() if key.lower() == "date"), "")
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
