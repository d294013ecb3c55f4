"""What each Airflow action may have to do, as roles of both auth managers, and as probes of what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oncall_agent.contract import Grants

_NOWHERE = "oncall-agent-probe-of-nothing"
_ON_DAGS = frozenset(
    {
        "airflow.clear_tasks",
        "airflow.mark_state",
        "airflow.pause_dag",
        "airflow.rerun_dag_run",
        "airflow.trigger_dag",
        "airflow.unpause_dag",
    }
)
_ON_RUNS = _ON_DAGS - {"airflow.pause_dag", "airflow.unpause_dag"}
_ON_TASKS = frozenset({"airflow.clear_tasks", "airflow.mark_state"})
_ON_POOLS = frozenset({"airflow.set_pool_slots"})
_EVERY = _ON_DAGS | _ON_POOLS


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission: as the FAB auth manager names it, who needs it, and a request that shows whether it is held.

    The requests change nothing whatever comes: they read, are dry runs, name what does not exist, or carry a
    body that is refused once the permission was looked at.
    """

    action: str
    resource: str
    needed_by: frozenset[str]
    method: str
    path: str
    body: Any = None

    @property
    def name(self) -> str:
        """As `can_edit on DAG Runs`."""
        return f"{self.action} on {self.resource}"

    def request(self, dag: str, *, is_v1: bool) -> tuple[str, str, Any]:
        """Give method, path and body of the probe.

        Args:
            dag: percent-encoded id of one that we may see.
            is_v1: there a body is looked at before the permission, so it has to be right and lead nowhere.
        """
        if is_v1 and self.body == _WRONG_PAUSE:
            return self.method, f"/dags/{_NOWHERE}", {"is_paused": True}
        if is_v1 and self.body == _WRONG_RUN:
            return self.method, f"/dags/{_NOWHERE}/dagRuns", {}
        return self.method, self.path.format(dag=dag, nowhere=_NOWHERE), self.body


_WRONG_PAUSE = {"is_paused": "neither"}
_WRONG_RUN = {"logical_date": "no date"}
_CLEAR_NOTHING = {"dry_run": True, "dag_run_id": _NOWHERE}

PERMISSIONS: tuple[Permission, ...] = (
    Permission("can_read", "DAGs", _EVERY, "GET", "/dags?limit=1"),
    Permission("can_read", "DAG Runs", _EVERY, "GET", "/dags/{dag}/dagRuns?limit=1"),
    Permission("can_read", "Task Instances", _ON_DAGS, "GET", "/dags/~/dagRuns/~/taskInstances?limit=1"),
    Permission("can_edit", "DAGs", _ON_DAGS, "PATCH", "/dags/{dag}", _WRONG_PAUSE),
    Permission(
        "can_edit", "DAG Runs", _ON_RUNS, "PATCH", "/dags/{dag}/dagRuns/{nowhere}", {"state": "failed"}
    ),
    Permission(
        "can_create",
        "DAG Runs",
        frozenset({"airflow.trigger_dag"}),
        "POST",
        "/dags/{dag}/dagRuns",
        _WRONG_RUN,
    ),
    Permission(
        "can_edit", "Task Instances", _ON_TASKS, "POST", "/dags/{dag}/clearTaskInstances", _CLEAR_NOTHING
    ),
    Permission(
        "can_read", "Task Logs", _ON_DAGS, "GET", "/dags/{dag}/dagRuns/{nowhere}/taskInstances/x/logs/1"
    ),
    Permission("can_read", "Pools", _ON_POOLS, "GET", "/pools?limit=1"),
    Permission("can_edit", "Pools", _ON_POOLS, "PATCH", "/pools/{nowhere}?update_mask=slots", {"slots": 1}),
    Permission("can_read", "Variables", frozenset(), "GET", "/variables?limit=1"),
    Permission("can_read", "Connections", frozenset(), "GET", "/connections?limit=1"),
)
"""The last two are needed by nothing: secrets stand there."""

ROLES = ("viewer", "user", "op", "admin")
"""Of the simple auth manager, each with all that the one before it has."""
_READABLE = ("DAGs", "DAG Runs", "Task Instances", "Task Logs", "Pools")
_HARMLESS = frozenset(f"can_read on {resource}" for resource in _READABLE)


def counts(permission: Permission, actions: Sequence[str]) -> bool:
    """Say whether a permission is worth reporting: reading what every role may read is not too much."""
    return bool(permission.needed_by & set(actions)) or permission.name not in _HARMLESS


def simple_role(actions: Sequence[str]) -> str:
    """Give the smallest role of the simple auth manager with which these actions work."""
    if _ON_POOLS & set(actions):
        return "op"
    return "user" if _ON_DAGS & set(actions) else "viewer"


def grants(actions: Sequence[str], username: str) -> Grants:
    """Give the role for both auth managers."""
    needed = [one for one in PERMISSIONS if one.needed_by & set(actions)]
    verbs = dict.fromkeys(one.action for one in needed)
    lines = [
        "# FAB auth manager (Airflow 3 with it, and every Airflow 2): exactly this and no more.",
        "# To narrow it down, replace DAGs by DAG:<dag id>, once for each DAG that is a target.",
        f"airflow roles create {username}",
        *(
            f"airflow roles add-perms {username} -a {action} -r {_resources(needed, action)}"
            for action in verbs
        ),
        f"airflow users create --username {username} --role {username} --firstname on --lastname call \\",
        f"  --email {username}@example.com --password '<password>'",
        "",
        "# Simple auth manager (Airflow 3): its roles are coarse. This is the smallest that is enough; it can do",
        "# more than the list above: user may also delete DAGs and runs, op may also read variables and connections.",
        "[core]",
        f"simple_auth_manager_users = {username}:{simple_role(actions)}",
        "# and in the file that simple_auth_manager_passwords_file names:",
        f'# {{"{username}": "<password>"}}',
    ]
    how = "Run the commands where Airflow's own command line works, or edit airflow.cfg for the simple auth manager."
    return Grants(language="text", text="\n".join(lines) + "\n", how_to_apply=how)


def _resources(permissions: Sequence[Permission], action: str) -> str:
    return " ".join(f"'{one.resource}'" for one in permissions if one.action == action)
