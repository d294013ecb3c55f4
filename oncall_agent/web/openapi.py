"""`/openapi.json`: OpenAPI 3.1, generated from the route table and the types, so that it can't fall behind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter

from oncall_agent import __version__
from oncall_agent.settings.model import AlertmanagerSource, Auth, HmacAuth, Settings, Source
from oncall_agent.web.errors import JSON
from oncall_agent.web.routes import Route
from oncall_agent.web.schemas import AcceptedBody, AlertmanagerBody, ErrorBody, Id, ReadyBody

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/{model}"
_PLACEHOLDER = re.compile(r"{(\w+)}")
_BEARER = "bearer"
_WEBHOOK_ERRORS = (400, 401, 403, 404, 405, 413, 500, 503)


def document(routes: Iterable[Route], settings: Settings) -> Json:
    """Give the whole description for this configuration: its sources, and whether tokens are asked for."""
    schemas: Json = {}
    schemes: Json = {}
    paths: Json = {}
    for name, source in settings.sources.items():
        paths[f"/webhooks/{name}"] = {"post": _webhook(name, source, schemas, schemes)}
    has_tokens = bool(settings.server.tokens)
    if has_tokens:
        schemes[_BEARER] = {"type": "http", "scheme": "bearer"}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, schemas, has_tokens=has_tokens
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "oncall-agent",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    }


def _operation(route: Route, schemas: Json, *, has_tokens: bool) -> Json:
    is_guarded = route.role is not None
    operation: Json = {
        "operationId": route.answer.__name__.strip("_"),
        "summary": route.summary,
        "parameters": [*_path_parameters(route.path), *_query_parameters(route)],
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        content = {JSON: {"schema": _schema(route.body, schemas, mode="validation")}}
        operation["requestBody"] = {"required": True, "content": content}
    if has_tokens and is_guarded:
        operation["security"] = [{_BEARER: []}]
        operation["description"] = f"Needs the role {route.role}."
    return operation


def _responses(route: Route, schemas: Json) -> Json:
    schema = {"type": "string"} if route.gives is str else _schema(route.gives, schemas)
    responses = {"200": {"description": "What was asked for.", "content": {route.media: {"schema": schema}}}}
    statuses = {403, 405, 500, 503, *route.errors}
    statuses |= {401} if route.role is not None else set()
    statuses |= {400} if route.query is not None or route.body is not None else set()
    responses |= _errors(statuses, schemas)
    if route.gives is ReadyBody:
        responses["503"] = {"description": "Some part does not work.", "content": {JSON: {"schema": schema}}}
    return responses


def _webhook(name: str, source: Source, schemas: Json, schemes: Json) -> Json:
    accepted = {
        "description": "Every alert is on disk.",
        "content": {JSON: {"schema": _schema(AcceptedBody, schemas)}},
    }
    body: Json = {}
    if isinstance(source, AlertmanagerSource):
        body = _schema(AlertmanagerBody, schemas, mode="validation")
    operation: Json = {
        "operationId": "receive_" + re.sub(r"\W", "_", name),
        "summary": f"Alerts from {name} ({source.kind})",
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
        "responses": {"202": accepted, **_errors(_WEBHOOK_ERRORS, schemas)},
    }
    if source.auth.kind != "none":
        schemes[f"source_{name}"] = _scheme(source.auth)
        operation["security"] = [{f"source_{name}": []}]
    return operation


def _scheme(auth: Auth) -> Json:
    if isinstance(auth, HmacAuth):
        signed = "timestamp:body" if auth.timestamp_header else "the body"
        return {
            "type": "apiKey",
            "in": "header",
            "name": auth.header,
            "description": f"HMAC-SHA256 of {signed}.",
        }
    return {"type": "http", "scheme": auth.kind}


def _errors(statuses: Iterable[int], schemas: Json) -> Json:
    content = {JSON: {"schema": _schema(ErrorBody, schemas)}}
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted(statuses)
    }


def _path_parameters(path: str) -> list[Json]:
    schema = TypeAdapter(Id).json_schema()
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name in _PLACEHOLDER.findall(path)
    ]


def _query_parameters(route: Route) -> list[Json]:
    if route.query is None:
        return []
    properties = _inline(route.query)["properties"]
    return [
        {"name": name, "in": "query", "schema": _without_null(schema)} for name, schema in properties.items()
    ]


def _inline(model: type[BaseModel]) -> Json:
    return model.model_json_schema(by_alias=True)


def _without_null(schema: Mapping[str, Any]) -> Json:
    """Give the schema without null, which has no form in a query."""
    kept = {key: value for key, value in schema.items() if key not in {"title", "anyOf", "default"}}
    if schema.get("default") is not None:
        kept["default"] = schema["default"]
    for choice in schema.get("anyOf", ()):
        kept |= {} if choice.get("type") == "null" else choice
    return kept


def _schema(shape: Any, schemas: Json, *, mode: Any = "serialization") -> Json:
    """Give the schema of a type; what it refers to goes into `schemas`."""
    found = TypeAdapter(shape).json_schema(mode=mode, ref_template=_REFERENCE)
    schemas.update(found.pop("$defs", {}))
    name = found.get("title")
    if name is None or not name.isidentifier():
        return found
    schemas[name] = found
    return {"$ref": _REFERENCE.format(model=name)}
