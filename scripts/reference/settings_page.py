"""`configuration.md`: every key of the main file and of a runbook file."""

from __future__ import annotations

import inspect

from pydantic import BaseModel

from oncall_agent.settings import model
from oncall_agent.settings.model import Runbook, RunbookCandidate, Settings
from reference.text import fields_table, first_line, page

_INTRO = """
One YAML file, its folder of runbooks, and the environment over both. Unknown keys are errors; every error names file,
line and key. `oncall-agent check-config --schema` prints all of this as JSON Schema for your editor.

- **Environment**: `ONCALL_AGENT__SERVER__PORT=9000` sets `server.port`. Two underscores part the names. Lists and
  objects are written as JSON.
- **Secrets** stand as references only: `env:NAME`, `file:/path` or `credential:NAME` (a systemd credential). They are
  read at the moment of use, so a changed file is seen within seconds.
- **Durations** end in `_seconds`. Times are RFC 3339 with an offset, or epoch seconds.
- The groups under `backends` belong to the actions and probes: see [actions](actions.md).
"""


def groups() -> list[type[BaseModel]]:
    """Give every group in the order in which it is written in the code, the whole file first."""
    found = [
        kind
        for kind in vars(model).values()
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.__module__ == model.__name__
    ]
    rest = [kind for kind in found if kind not in (model.Group, Settings, Runbook, RunbookCandidate)]
    return [Settings, *rest, Runbook, RunbookCandidate]


def _section(kind: type[BaseModel]) -> str:
    title = {
        Settings: "The whole file: Settings",
        Runbook: "A runbook: Runbook",
        RunbookCandidate: "A candidate: RunbookCandidate",
    }.get(kind, kind.__name__)
    anchor = f'<a id="{kind.__name__.lower()}"></a>\n\n'
    return f"{anchor}## {title}\n\n{first_line(kind)}\n\n{fields_table(kind)}"


def render() -> str:
    """Give the page."""
    return page("Configuration keys", _INTRO, *(_section(kind) for kind in groups()))
