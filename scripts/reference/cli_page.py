"""`cli.md`: every verb of `oncall-agent` with its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from oncall_agent.cli.app import app
from reference.text import code, page, table

_INTRO = """
Exit codes: 0 ok, 1 the thing checked failed (or the daemon refuses or does not answer), 2 bad usage or configuration.
Every verb that prints data takes `--json`. Verbs that speak to a daemon take `--url` or `ONCALL_AGENT_URL`, and the
bearer token from the environment variable `ONCALL_AGENT_TOKEN`; it is never an argument, since arguments can be read
by every user of the machine.
"""


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every verb that does something, with the words before it."""
    command = command or get_command(app)
    inner = getattr(command, "commands", None)
    if not inner:
        yield path, command
        return
    for name, one in sorted(inner.items()):
        yield from verbs(one, (*path, name))


def _verb(path: tuple[str, ...], command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    words = [name if one.required else f"[{name}]" for one in arguments for name in (one.name.upper(),)]
    usage = " ".join(["oncall-agent", *path, *words, *(["[OPTIONS]"] if options else [])])
    rows = [
        (code(one.name.upper()), "required" if one.required else shown(one), one.help or "")
        for one in arguments
    ]
    rows += [(", ".join(code(name) for name in one.opts), shown(one), _help(one)) for one in options]
    parts = [
        f"## {' '.join(path)}",
        command.help or "",
        f"    {usage}",
        table(("", "default", "meaning"), rows),
    ]
    return "\n\n".join(part for part in parts if part)


def _help(option: Any) -> str:
    names = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
    from_environment = f" Also from {', '.join(code(name) for name in names)}." if names else ""
    return (option.help or "") + from_environment


def shown(parameter: Any) -> str:
    """Give a default as it would be typed."""
    default = parameter.default
    if default is None or default is False or repr(default).startswith("Sentinel"):
        return ""
    return code(str(default))


def render() -> str:
    """Give the page."""
    return page("Command line", _INTRO, *(_verb(path, command) for path, command in verbs()))
