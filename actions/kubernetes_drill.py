"""What the kubernetes drills share: a namespace of their own, one workload in it, and waiting for the symptom.

They need more of the cluster than the actions do (to make namespaces and workloads): the sandbox may name another
way in with `kubeconfig` and `context`, or `host`, `token` and `ca_file`. Faults are made through the API alone;
nothing is executed inside a pod.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from actions.kubernetes_api import Clusters, MissingError
from actions.kubernetes_objects import api_version, path_of, restarts_of, selector_of, statuses_of, trouble_of
from actions.kubernetes_prober import is_sick
from actions.kubernetes_reader import KIND
from actions.kubernetes_workload import complaint
from oncall_agent.contract import Check, Drill, PermanentError, SystemContext, Target, Trial
from oncall_agent.models import JsonObject

Json = dict[str, Any]
IDLE = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
NAMED: dict[str, Any] = {"sandbox": "named", "sandbox_keys": ("image",), "deadline_seconds": 90.0}
"""What the specs of the drills share."""
_WAYS = ("kubeconfig", "context", "host", "token", "ca_file")
_POLL_SECONDS = 0.2
_LABELS = {"app.kubernetes.io/managed-by": "oncall-agent", "oncall-agent.io/drill": "true"}


class KubernetesDrill(Drill):
    """Makes a Deployment, breaks it, and removes all of it."""

    stable_seconds = 1.0

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self.clusters = Clusters(_way_in(settings, sandbox))
        self.name = f"oncall-drill-{secrets.token_hex(4)}"
        self.namespace = str(sandbox.get("namespace") or self.name)
        self.made: list[str] = []

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Make the sandbox and wait until it is well."""
        allowed = self.clusters.settings.namespaces
        if allowed and self.namespace not in allowed:
            key = "validation.sandboxes.kubernetes.namespace"
            raise PermanentError(f"name one of backends.kubernetes.namespaces for drills: {key}")
        if not self.sandbox.get("image"):
            raise PermanentError(
                "name an image that nodes have or can pull, with sh: validation.sandboxes.kubernetes.image"
            )
        if not self.sandbox.get("namespace"):
            await self.create(ctx, "Namespace", self.namespace)
        await self.make(ctx)
        trial = self.trial()
        await self.until(ctx, trial, is_well=True)
        return trial

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault, and wait until it shows."""
        await self.break_it(ctx)
        await self.until(ctx, trial, is_well=False)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the sandbox is well."""
        try:
            return await self.look(ctx)
        except MissingError as error:
            return Check(ok=False, reason=error.message)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove what was made, the last first; leases and saved manifests go with a namespace of its own."""
        try:
            while self.made:
                await self._remove(ctx, self.made[-1])
                self.made.pop()
        finally:
            await self.clusters.close()

    async def make(self, ctx: SystemContext) -> None:
        """Make the workload; the default runs one idle pod."""
        await self.deploy(ctx)

    @abstractmethod
    async def break_it(self, ctx: SystemContext) -> None:
        """Make the fault."""

    async def look(self, ctx: SystemContext) -> Check:
        """Look at the workload and its pods."""
        workload = await self.ask(ctx, "GET", path_of("Deployment", self.namespace, self.name))
        pods = await self.pods(ctx, workload)
        ails = next((word for pod in pods if is_sick(word := trouble_of(pod))), "")
        crashed = any((one.get("state") or {}).get("terminated") for pod in pods for one in statuses_of(pod))
        reason = f"a pod is {ails}" if ails else "a container has ended" if crashed else complaint(workload)
        return Check(ok=not reason, reason=reason)

    def trial(self) -> Trial:
        """Give what the action is carried out on."""
        return Trial(self.target(), {"stable_seconds": self.stable_seconds})

    def target(self, kind: str = "Deployment") -> Target:
        """Give the workload as a target."""
        context = {"context": self.sandbox["context"]} if self.sandbox.get("context") else {}
        address = {"namespace": self.namespace, "kind": kind, "name": self.name, **context}
        return Target(self.name, KIND, address=address)

    async def ask(self, ctx: SystemContext, method: str, path: str, **more: Any) -> Json:
        """Ask the cluster inside the drill's deadline."""
        return await self.clusters.ask(ctx.seconds_left, method, path, **more)

    async def pods(self, ctx: SystemContext, workload: JsonObject) -> list[Json]:
        """Give the workload's pods that are not ending."""
        query = {"labelSelector": selector_of(workload), "limit": "100"}
        found = (await self.ask(ctx, "GET", path_of("Pod", self.namespace), query=query)).get("items") or []
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    async def create(self, ctx: SystemContext, kind: str, name: str, **more: Any) -> None:
        """Make an object that is removed at the end."""
        namespace = "" if kind == "Namespace" else self.namespace
        meta = {"name": name, "labels": _LABELS}
        self.made.append(path_of(kind, namespace, name))
        body = {"apiVersion": api_version(kind), "kind": kind, "metadata": meta, **more}
        await self.ask(ctx, "POST", path_of(kind, namespace), body=body)

    async def deploy(
        self,
        ctx: SystemContext,
        script: str = IDLE,
        *,
        replicas: int = 1,
        pod: JsonObject | None = None,
        **container: Any,
    ) -> None:
        """Make the Deployment."""
        spec: Json = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": self.name}},
            # With the old pods gone first, a bad rollout is an outage and not only a warning.
            "strategy": {"type": "Recreate"},
            "template": self.template(script, pod, **container),
        }
        await self.create(ctx, "Deployment", self.name, spec=spec)

    def template(self, script: str, pod: JsonObject | None = None, **container: Any) -> Json:
        """Give the pod's template."""
        image = {"image": self.sandbox["image"], "imagePullPolicy": "IfNotPresent"}
        main = {"name": "main", **image, "command": ["sh", "-c", script], **container}
        spec = {"terminationGracePeriodSeconds": 1, "containers": [main], **(pod or {})}
        return {"metadata": {"labels": {"app": self.name, **_LABELS}}, "spec": spec}

    async def patch(
        self, ctx: SystemContext, spec: JsonObject, *, container: JsonObject | None = None
    ) -> None:
        """Change the Deployment, or its container."""
        changed = {"spec": {"containers": [{"name": "main", **container}]}} if container else None
        body = {"spec": {**spec, **({"template": changed} if changed else {})}}
        await self.ask(
            ctx, "PATCH", path_of("Deployment", self.namespace, self.name), body=body, strategic=True
        )

    async def until(self, ctx: SystemContext, trial: Trial, *, is_well: bool) -> None:
        """Wait for the symptom, or its absence.

        Raises:
            PermanentError: it did not come within the deadline.
        """
        while (check := await self.symptom(ctx, trial)).ok is not is_well:
            if ctx.seconds_left < 2 * _POLL_SECONDS:
                raise PermanentError(f"the sandbox is not {'well' if is_well else 'sick'}: {check.reason}")
            await ctx.clock.sleep(_POLL_SECONDS)

    async def until_so(self, ctx: SystemContext, ask: Callable[[SystemContext], Awaitable[bool]]) -> None:
        """Wait until something is so; raises PermanentError when it is not within the deadline."""
        while not await ask(ctx):
            if ctx.seconds_left < 2 * _POLL_SECONDS:
                raise PermanentError("the fault did not show in time")
            await ctx.clock.sleep(_POLL_SECONDS)

    async def until_sick(self, ctx: SystemContext) -> None:
        """Wait until a pod itself is sick: that it is not there yet is no fault."""

        async def is_one_sick(ctx: SystemContext) -> bool:
            workload = await self.ask(ctx, "GET", path_of("Deployment", self.namespace, self.name))
            pods = await self.pods(ctx, workload)
            return any(is_sick(trouble_of(pod)) or restarts_of([pod]) for pod in pods)

        await self.until_so(ctx, is_one_sick)

    async def _remove(self, ctx: SystemContext, path: str) -> None:
        try:
            await self.ask(ctx, "DELETE", path, body={"propagationPolicy": "Background"})
        except MissingError:
            return


def _way_in(settings: JsonObject, sandbox: JsonObject) -> JsonObject:
    given = {key: sandbox[key] for key in _WAYS if sandbox.get(key)}
    if not given:
        return settings
    return {**{key: value for key, value in settings.items() if key not in _WAYS}, **given}
