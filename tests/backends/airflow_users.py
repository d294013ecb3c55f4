"""The users of the FAB auth manager in the tests' Airflow: roles made by the very commands that are printed for them."""

from importlib.metadata import entry_points

from actions.airflow_grants import grants

ALL_ACTIONS = tuple(
    point.name for point in entry_points(group="oncall_agent.actions") if point.name.startswith("airflow.")
)
FAB_ROLES = {
    "oncall_all": ALL_ACTIONS,
    "oncall_pause": ("airflow.pause_dag",),
    "oncall_pool": ("airflow.set_pool_slots",),
}
"""User, and name of his role -> the actions that the role is printed for."""
FAB_ADMIN = "oncall_admin"
FAB_PASSWORD = "pw-of-the-tests"
_ADMIN = (
    f"airflow users create --username {FAB_ADMIN} --role Admin --firstname on --lastname call "
    f"--email {FAB_ADMIN}@example.com --password '<password>'"
)


def fab_commands() -> list[str]:
    """Airflow's own commands that make the roles and a user of each."""
    texts = [grants(actions, name).text for name, actions in FAB_ROLES.items()]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    commands = [_ADMIN, *(line for line in lines if line.startswith("airflow "))]
    return [command.replace("<password>", FAB_PASSWORD) for command in commands]
