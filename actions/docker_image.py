"""Replacing a container by one of another image, with the old one kept until the next replacement.

Steps: create the new one beside it, stop and rename the old one, rename and start the new one. A crash between
any two is recognised by names and by the label `oncall-agent.attempt`, and the rest is done or undone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from actions.docker_config import creation_body, has_anonymous_volumes, later_networks
from actions.docker_engine import (
    KIND,
    Api,
    DockerExecutor,
    MissingError,
    SettledParams,
    container_of,
    judge,
    state_of,
)
from actions.docker_limits import limits_of, update
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass
from oncall_agent.models import JsonObject

ATTEMPT_LABEL = "oncall-agent.attempt"
STATE_LABEL = "oncall-agent.state-before"


class ImageParams(SettledParams):
    """Which image to run instead."""

    image: str = Field(pattern=r"^[a-z0-9][A-Za-z0-9._/:@-]{0,254}$")
    """Reference with tag or digest; the image it names at precheck time is the one that runs."""
    stop_seconds: int = Field(10, ge=0, le=120)


@dataclass(frozen=True, slots=True)
class Names:
    """The three names of one replacement."""

    current: str
    backup: str
    fresh: str


def names_for(container: str, key: str) -> Names:
    """Give the names, the same for every call under one idempotency key."""
    # Not the key's first characters: those of time-sortable ids hardly differ.
    key8 = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
    return Names(container, f"{container}-oncall-{key8}", f"{container}-oncall-{key8}-new")


class RecreateWithImage(DockerExecutor):
    """Runs the same container from another image, for instance the version before."""

    spec = ActionSpec(
        id="docker.recreate_with_image",
        summary="Replace a container by one of another image with the same configuration.",
        target_kind=KIND,
        params=ImageParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=240.0,
        cost=0.15,
        family="rollback",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when the image is absent or the same, or when something would be lost with the old container."""
        inspected, reason = await self.inspect_or_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        if has_anonymous_volumes(inspected):
            return Check(
                ok=False, reason="the container has anonymous volumes: their content would stay behind"
            )
        if inspected["HostConfig"].get("AutoRemove"):
            return Check(
                ok=False, reason="the container removes itself when stopped: nothing could be restored"
            )
        reference = ctx.params.image
        try:
            image = await self.ask(ctx, lambda api: api.inspect_image(reference))
        except MissingError:
            return await self._pullable(ctx)
        facts = {
            "image_before": inspected["Image"],
            "image": image["Id"],
            "state_before": state_of(inspected).status,
        }
        if image["Id"] == inspected["Image"]:
            return Check(ok=False, reason="the container runs this image already", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Go through the steps that are not done yet."""
        names = names_for(container_of(ctx.target), ctx.idempotency_key)
        facts: dict[str, Any] = {"backup": names.backup, "image": ctx.params.image}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        work = _Replacement(names, ctx.idempotency_key, ctx.params, self.engine.settings.allow_pull)
        try:
            facts["image"] = await self.ask(ctx, work.carry_out)
        except PermanentError as error:
            error.receipt_facts = facts
            raise
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the new container is in place and well."""

        def judged(inspected: dict[str, Any]) -> Check:
            if _attempt_of(inspected) != ctx.idempotency_key:
                return Check(
                    ok=False, reason="the container was not replaced", facts=state_of(inspected).as_facts()
                )
            return judge(state_of(inspected), restarts_before=0)

        return await self.until_well(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Remove the new container and put the old one back as it was."""
        names = names_for(container_of(ctx.target), ctx.idempotency_key)
        work = _Replacement(names, ctx.idempotency_key, ctx.params, may_pull=False)
        status = await self.ask(ctx, work.take_back)
        return Check(
            ok=bool(status), reason="" if status else "the old container is gone", facts={"status": status}
        )

    async def _pullable(self, ctx: ActionContext) -> Check:
        reference = ctx.params.image
        if not self.engine.settings.allow_pull:
            return Check(ok=False, reason="the image is not on the host, and pulling is not allowed")
        try:
            await self.ask(ctx, lambda api: api.inspect_distribution(reference))
        except (PermanentError, MissingError) as error:
            return Check(ok=False, reason=f"the image can't be pulled: {error.message}")
        return Check(ok=True, facts={"image": reference, "pull": True})


class _Replacement:
    """The steps, each of which looks first whether it is done. Blocking: runs in the thread pool."""

    def __init__(self, names: Names, key: str, params: ImageParams, may_pull: bool) -> None:
        self._names, self._key, self._params, self._may_pull = names, key, params, may_pull

    def carry_out(self, api: Api) -> str:
        """Give the id of the image that runs now."""
        found = _find(api, self._names.current)
        if found is not None and _attempt_of(found) != self._key:
            self._prepare(api, found)
            self._set_aside(api, found)
        self._put_in_place(api)
        now = api.inspect_container(self._names.current)
        return str(now["Image"])

    def take_back(self, api: Api) -> str:
        """Give the old container's status, empty when there is none."""
        current = _find(api, self._names.current)
        if current is not None and _attempt_of(current) == self._key:
            api.stop(self._names.current, timeout=self._params.stop_seconds)
            api.rename(self._names.current, self._names.fresh)
            current = None
        if current is None and _find(api, self._names.backup) is not None:
            api.rename(self._names.backup, self._names.current)
            current = _find(api, self._names.current)
        if current is None:
            return ""
        self._revive(api, limits_of(current)["RestartPolicy"])
        return state_of(api.inspect_container(self._names.current)).status

    def _revive(self, api: Api, policy: JsonObject) -> None:
        # Removed last: until then it tells a repeated call how the old container was.
        fresh = _find(api, self._names.fresh)
        if fresh is None:
            return
        old_policy = limits_of(fresh)["RestartPolicy"]
        if policy != old_policy:
            update(api, self._names.current, {"RestartPolicy": old_policy})
        was_running = (fresh["Config"].get("Labels") or {}).get(STATE_LABEL) != "exited"
        if was_running and state_of(api.inspect_container(self._names.current)).status != "running":
            api.start(self._names.current)
        api.remove_container(self._names.fresh, force=True)

    def _prepare(self, api: Api, old: JsonObject) -> None:
        if _find(api, self._names.fresh) is not None:
            return
        image = self._image(api)
        base = _image_config(api, old["Image"])
        was = "exited" if old["State"].get("Status") in ("exited", "created") else "running"
        body = creation_body(old, base, image, {ATTEMPT_LABEL: self._key, STATE_LABEL: was})
        api.create_container_from_config(body, self._names.fresh)
        for network, settings in later_networks(old).items():
            api.connect_container_to_network(self._names.fresh, network, **settings)

    def _image(self, api: Api) -> str:
        try:
            return str(api.inspect_image(self._params.image)["Id"])
        except Exception as error:
            if not (self._may_pull and getattr(error, "status_code", 0) == 404):  # noqa: PLR2004 - not found
                raise
        api.pull(self._params.image)
        return str(api.inspect_image(self._params.image)["Id"])

    def _set_aside(self, api: Api, old: JsonObject) -> None:
        for listed in api.containers(all=True, filters={"name": f"{self._names.current}-oncall-"}):
            self._remove_older_backup(api, listed)
        if old["State"].get("Running") or old["State"].get("Restarting"):
            api.stop(self._names.current, timeout=self._params.stop_seconds)
        if limits_of(old)["RestartPolicy"]["Name"] != "no":
            # Else a restart of the engine would start it beside the new one.
            update(api, self._names.current, {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}})
        api.rename(self._names.current, self._names.backup)

    def _remove_older_backup(self, api: Api, listed: JsonObject) -> None:
        pattern = re.compile(rf"/?{re.escape(self._names.current)}-oncall-[0-9a-f]{{8}}")
        is_older = any(
            pattern.fullmatch(name) and not name.endswith(self._names.backup) for name in listed["Names"]
        )
        if is_older and listed.get("State") != "running":
            api.remove_container(listed["Id"])

    def _put_in_place(self, api: Api) -> None:
        if _find(api, self._names.current) is None:
            if _find(api, self._names.fresh) is None:
                raise PermanentError("neither the old nor the new container is there")
            api.rename(self._names.fresh, self._names.current)
        if state_of(api.inspect_container(self._names.current)).status != "running":
            api.start(self._names.current)


def _find(api: Api, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.inspect_container(name)
    except Exception as error:
        if getattr(error, "status_code", 0) == 404:  # noqa: PLR2004 - not found
            return None
        raise
    return found


def _attempt_of(inspected: JsonObject) -> str | None:
    labels: dict[str, str] = inspected["Config"].get("Labels") or {}
    return labels.get(ATTEMPT_LABEL)


def _image_config(api: Api, image: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = api.inspect_image(image).get("Config") or {}
    except Exception as error:
        if getattr(error, "status_code", 0) == 404:  # noqa: PLR2004 - the old image was removed from the host
            return {}
        raise
    return config
