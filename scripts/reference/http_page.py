"""`http.md`: the HTTP interface, from the description that the daemon itself serves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from aiohttp.test_utils import TestClient, TestServer

from oncall_agent.contract import SystemClock
from oncall_agent.settings.model import Settings
from oncall_agent.telemetry.metrics import Metrics
from oncall_agent.web.app import build
from oncall_agent.web.dashboard import PAGES
from oncall_agent.web.parts import Parts
from reference.meanings import CODE_MEANINGS
from reference.text import code, page, table

_INTRO = """
The daemon serves the same as OpenAPI 3.1 at `/openapi.json`, for its own configuration. Every error has one shape:
`{"error": {"code": "...", "message": "...", "detail": {...}}}`; programs go by `code`. With `server.tokens` set, send
`Authorization: Bearer TOKEN`; without, the daemon listens on loopback only and everybody there is `local` with the
role admin. Bodies are `application/json`; unknown or repeated query parameters are refused.
"""


def described() -> dict[str, Any]:
    """Give the OpenAPI document as the daemon answers it, for two sources and one token."""
    return asyncio.run(_asked())


async def _asked() -> dict[str, Any]:
    token = {"name": "reader", "role": "viewer", "secret": "env:NOT_READ"}
    parts = SimpleNamespace(
        settings=Settings.model_validate({"server": {"tokens": [token]}}),
        metrics=Metrics(),
        clock=SystemClock(),
        secrets=None,
        store=None,
        placement=None,
    )
    async with TestClient(TestServer(build(cast("Parts", parts)))) as client:
        answer = await client.get("/openapi.json")
        document: dict[str, Any] = await answer.json()
    return document


def _name(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_name(inner) for inner in schema["anyOf"])
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return ", ".join(code(str(value)) for value in values) or _shape(schema)


def _shape(schema: dict[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"list of {_name(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_name(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    role = operation.get("description", "Open to everybody who reaches the port.")
    parts = [f"### {method.upper()} {path}", f"{operation['summary']}. {role}"]
    parameters = [
        (code(one["name"]), one["in"], _name(one["schema"]), str(one["schema"].get("default", "")))
        for one in operation.get("parameters", [])
    ]
    parts.append(table(("parameter", "in", "type", "default"), parameters))
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        parts.append(f"Body: {_name(content)}.")
    parts.append(table(("status", "gives"), _answers(operation)))
    return "\n\n".join(part for part in parts if part)


def _answers(operation: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for status, response in sorted(operation["responses"].items()):
        if "content" not in response or "ErrorBody" in str(response["content"]):
            continue
        (media, content), *_ = response["content"].items()
        given = _name(content["schema"]) if media == "application/json" else code(media)
        rows.append((status, given))
    errors = sorted(set(operation["responses"]) - {row[0] for row in rows})
    return [*rows, (", ".join(errors), "[ErrorBody](#errorbody)")]


def _schema(name: str, schema: dict[str, Any]) -> str:
    meaning = schema.get("description", "").partition("\n\n")[0]
    if "enum" in schema:
        return f"### {name}\n\n{meaning}\n\nOne of {_name(schema)}."
    required = set(schema.get("required", ()))
    rows = [
        (code(key), _name(inner), "yes" if key in required else "", inner.get("description", ""))
        for key, inner in schema.get("properties", {}).items()
    ]
    return f"### {name}\n\n{meaning}\n\n{table(('key', 'type', 'required', 'meaning'), rows)}"


def render() -> str:
    """Give the page."""
    document = described()
    operations = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    codes = table(
        ("code", "status", "meaning"),
        ((code(name), status, text) for name, (status, text) in sorted(CODE_MEANINGS.items())),
    )
    pages = table(("method", "path"), ((method, code(path)) for method, path, _ in PAGES))
    schemas = (_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    return page(
        "HTTP interface",
        _INTRO,
        "## Resources",
        *operations,
        "## Error codes\n\n" + codes,
        f"## Pages of the dashboard\n\nFor people; they may change between releases.\n\n{pages}",
        "## Schemas",
        *schemas,
    )
