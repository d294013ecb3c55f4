"""Faults made on purpose on containers that a drill makes for itself and removes."""

from __future__ import annotations

import json
from typing import ClassVar

from actions.docker_disk import Disk, disk_of
from actions.docker_drill import DockerDrill
from actions.docker_engine import Api, inspect, judge, state_of
from actions.docker_scripts import CRASH, HANGING, HEALTH, HOGGING, IDLE, fill_script
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, SystemContext, Target, Trial

_TIGHT_BYTES = 32 * 1_048_576
_MAX_LAYERS = 20


class HungHealthCheck(DockerDrill):
    """A container that runs and does not answer its health check."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.hung_health_check",
        action="docker.restart_container",
        scenario="hung_service",
        summary="A container of its own hangs: it runs, and its health check fails.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def make(self, api: Api, image: str) -> None:
        """Start it."""
        self.run(api, image, HANGING, healthcheck=HEALTH)

    def break_it(self, api: Api) -> None:
        """Tell it to hang."""
        api.kill(self.name, "SIGUSR1")


class Crashed(DockerDrill):
    """A container that crashed and was not started again."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.crashed",
        action="docker.start_or_unpause",
        scenario="service_crash_handling",
        summary="A container of its own is killed and stays down.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def make(self, api: Api, image: str) -> None:
        """Start it."""
        self.run(api, image, IDLE)

    def break_it(self, api: Api) -> None:
        """Kill it."""
        api.kill(self.name, "SIGKILL")


class Paused(Crashed):
    """A container that somebody paused and forgot."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.paused",
        action="docker.start_or_unpause",
        scenario="container_paused",
        summary="A container of its own is paused.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def break_it(self, api: Api) -> None:
        """Pause it."""
        api.pause(self.name)


class CrashLoop(DockerDrill):
    """A container whose new image crashes at once."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.crash_loop",
        action="docker.recreate_with_image",
        scenario="service_crash_handling",
        summary="A container of its own is replaced by one whose image crashes again and again.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def make(self, api: Api, image: str) -> None:
        """Make a good image and a bad one, and start the good one."""
        good, bad = f"{self.name}:good", f"{self.name}:bad"
        self.images = [good, bad]
        self.run(api, image, IDLE)
        for tag, script in (("good", IDLE), ("bad", CRASH)):
            api.commit(self.name, self.name, tag, changes=f"CMD {json.dumps(['sh', '-c', script])}")
        self._replace(api, good)

    def break_it(self, api: Api) -> None:
        """Run the bad image instead."""
        self._replace(api, f"{self.name}:bad")

    def look(self, api: Api, now: float) -> Check:
        """Call it sick also between two crashes."""
        state = state_of(inspect(api, self.name, now))
        return judge(state, restarts_before=0)

    def trial(self) -> Trial:
        """Ask for the good image."""
        given = super().trial()
        return Trial(given.target, {**given.params, "image": f"{self.name}:good"})

    def _replace(self, api: Api, image: str) -> None:
        api.remove_container(self.name, force=True, v=True)
        self.run(api, image, None, restart="always")


class OutOfMemory(DockerDrill):
    """A container whose load needs more memory than it may have."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.out_of_memory",
        action="docker.update_limits",
        scenario="high_memory_response",
        summary="A container of its own needs more memory than its limit and is killed for it.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def make(self, api: Api, image: str) -> None:
        """Start it with little memory and no load."""
        self.run(api, image, HOGGING, memory=_TIGHT_BYTES, stop_timeout=1, healthcheck=HEALTH)

    def break_it(self, api: Api) -> None:
        """Give it the load."""
        api.kill(self.name, "SIGUSR1")

    def trial(self) -> Trial:
        """Ask for half as much again."""
        given = super().trial()
        return Trial(given.target, {**given.params, "memory_factor": 1.5})


class SickReplica(DockerDrill):
    """One of two replicas hangs and goes on taking part."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.sick_replica",
        action="docker.isolate_or_stop",
        scenario="service_crash_handling",
        summary="One of two replicas of a service of its own hangs.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def make(self, api: Api, image: str) -> None:
        """Start both."""
        labels = dict.fromkeys(self.engine.settings.service_labels, self.name)
        for name in (self.name, f"{self.name}-other"):
            self.run(api, image, HANGING, name=name, healthcheck=HEALTH, labels=labels)

    def break_it(self, api: Api) -> None:
        """Tell one to hang."""
        api.kill(self.name, "SIGUSR1")

    def look(self, api: Api, now: float) -> Check:
        """Call the service well when every replica that takes part is."""
        states = [state_of(inspect(api, name, now)) for name in (self.name, f"{self.name}-other")]
        taking_part = [state for state in states if state.status == "running"]
        if not taking_part:
            return Check(ok=False, reason="no replica runs")
        return next((check for check in map(judge, taking_part) if not check.ok), Check(ok=True))


class FullDisk(DockerDrill):
    """An engine's disk full of images that nobody uses."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="docker.full_disk",
        action="docker.prune",
        scenario="full_disk",
        summary="The disk of an engine that may be emptied is filled with unused images.",
        sandbox="named",
        sandbox_keys=("image", "disposable_engine"),
        deadline_seconds=180.0,
    )
    over, target = 0.6, 0.5

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Refuse an engine whose unused images are of use to somebody."""
        if self.sandbox.get("disposable_engine") is not True:
            key = "validation.sandboxes.docker.disposable_engine"
            raise PermanentError(f"only where everything unused may go: set {key} to true")
        if self.engine.settings.min_prune_age_seconds:
            raise PermanentError(
                "what the drill makes is young: set backends.docker.min_prune_age_seconds to 0"
            )
        return await super().prepare(ctx)

    def make(self, api: Api, image: str) -> None:
        """Take the image in use, so that it is not removed with the rest."""
        self.run(api, image, IDLE)

    def break_it(self, api: Api) -> None:
        """Add images until the disk is over the threshold."""
        for number in range(_MAX_LAYERS):
            disk = self._disk(api)
            if disk.used >= self.over:
                return
            self._fill(api, number, disk.total_bytes // 20)

    def look(self, api: Api, now: float) -> Check:
        """Look at the disk."""
        used = self._disk(api).used
        return Check(ok=used < self.over, reason="" if used < self.over else f"the disk is {used:.0%} full")

    def trial(self) -> Trial:
        """Ask for everything unused, however young."""
        params = {"images": "unused", "older_than_seconds": 0, "over": self.over, "target": self.target}
        return Trial(Target(self.name, "docker_engine"), params)

    def _disk(self, api: Api) -> Disk:
        disk = disk_of(self.engine.settings, str(api.info().get("DockerRootDir") or ""))
        if disk is None:
            raise PermanentError("the engine's disk can't be seen from here: set data_root")
        return disk

    def _fill(self, api: Api, number: int, size: int) -> None:
        name = f"{self.name}-fill{number}"
        self.run(api, str(self.sandbox["image"]), fill_script(size, name), name=name)
        if api.wait(name, timeout=120)["StatusCode"] != 0:
            raise PermanentError("the disk could not be filled")
        self.images.append(f"{name}:1")
        api.commit(name, name, "1")
        api.remove_container(name, v=True)


DRILLS: tuple[type[Drill], ...] = (
    HungHealthCheck,
    Crashed,
    Paused,
    CrashLoop,
    OutOfMemory,
    SickReplica,
    FullDisk,
)
