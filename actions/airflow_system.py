"""Airflow as a whole: what it is, what our user may do there, the role that is enough, the drills."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import quote

from actions.airflow_api import AirflowApi
from actions.airflow_client import AirflowClient, ForbiddenError, InvalidError, MissingError, Timed
from actions.airflow_drills import DRILLS
from actions.airflow_grants import PERMISSIONS, Permission, counts, grants
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject


class AirflowSystem(System):
    """Inspection, grants and drills of Airflow."""

    name = "airflow"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._client = AirflowClient(settings)
        self._api = AirflowApi(self._client)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read version, clock and scheduler, and try with requests that lead nowhere what we may do."""
        server = await self._client.any_server(ctx)
        if server.unsupported:
            return Inspection("Apache Airflow", server.version, unsupported=server.unsupported)
        answer = await self._client.open(ctx, f"{server.base}/version")
        health = await self._api.health(ctx)
        product = f"Apache Airflow, scheduler {health.scheduler}, database {health.database}"
        if server.is_v1:
            product += "; Airflow 2 is not proven on a real server"
        return Inspection(
            product=product,
            version=server.version,
            identity=self._identity(),
            server_time=_time_of(answer.headers.get("Date")),
            privileges=await self._privileges(ctx, actions, is_v1=server.is_v1),
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the role for the FAB and for the simple auth manager."""
        return grants(actions, self._client.settings.username)

    def _identity(self) -> str:
        settings = self._client.settings
        return "the owner of the token" if settings.token is not None else settings.username

    async def _privileges(
        self, timed: Timed, actions: Sequence[str], *, is_v1: bool
    ) -> tuple[Privilege, ...]:
        dag = quote(await self._some_dag(timed), safe="")
        found = []
        for one in PERMISSIONS:
            if counts(one, actions):
                is_held = await self._is_held(timed, one, dag, is_v1=is_v1)
                found.append(Privilege(one.name, is_held, tuple(sorted(one.needed_by & set(actions)))))
        return tuple(found)

    async def _some_dag(self, timed: Timed) -> str:
        """Give a DAG that we are meant for: the permissions may be for some DAGs only."""
        try:
            tagged = await self._api.dags(timed, tag=self._client.settings.allow_tag)
            seen = tagged or await self._api.dags(timed)
        except ForbiddenError:
            seen = []
        return seen[0] if seen else "oncall-agent-probe-of-nothing"

    async def _is_held(self, timed: Timed, permission: Permission, dag: str, *, is_v1: bool) -> bool:
        method, path, body = permission.request(dag, is_v1=is_v1)
        try:
            await self._client.call(timed, method, path, body=body)
        except ForbiddenError:
            return False
        except (InvalidError, MissingError):
            return True
        return True


def _time_of(header: str | None) -> float | None:
    try:
        return parsedate_to_datetime(header).timestamp() if header else None
    except ValueError:
        return None
