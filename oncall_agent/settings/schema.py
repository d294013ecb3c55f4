"""The configuration as JSON Schema 2020-12: for editors, for `check-config --schema`, for the reference."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from oncall_agent.settings.model import Runbook, Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Give the schema of the main file; that of a runbook file stands beside it under `$defs/RunbookFile`.

    Says what the types say. What needs more than one key, the clock or the installed actions is found by
    `load` and `check_actions` only.
    """
    main: dict[str, Any] = Settings.model_json_schema(by_alias=True, mode="validation")
    files = runbooks_schema()
    definitions = {**main.pop("$defs", {}), **files.pop("$defs", {})}
    definitions["RunbookFile"] = {key: value for key, value in files.items() if key != "$schema"}
    schema = {"$schema": DIALECT, **main, "title": "oncall-agent configuration", "$defs": definitions}
    closed: dict[str, Any] = _closed(schema)
    return closed


def runbooks_schema() -> dict[str, Any]:
    """Give the schema of one runbook file: a list of runbooks, or a mapping with the key `runbooks`."""
    listed = TypeAdapter(tuple[Runbook, ...]).json_schema(by_alias=True, mode="validation")
    definitions = listed.pop("$defs", {})
    wrapped = {
        "type": "object",
        "properties": {"runbooks": listed},
        "required": ["runbooks"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "oncall-agent runbooks",
        "description": "A list of runbooks, or a mapping with the key `runbooks`.",
        "anyOf": [listed, wrapped],
        "$defs": definitions,
    }


def _closed(schema: Any) -> Any:
    """Refuse keys that fit none of the patterns for names: pydantic does, its schema leaves them open."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(inner) for key, inner in schema.items()}
    if "patternProperties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed
