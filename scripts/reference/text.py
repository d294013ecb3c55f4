"""Markdown out of types and docstrings: what the pages have in common."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reference.meanings import KEY_MEANINGS

HEAD = "<!-- Written by scripts/docs from the code: change the code, then run it again. -->"


def page(title: str, intro: str, *parts: str) -> str:
    """Put one page together."""
    body = "\n\n".join(part.strip() for part in parts if part.strip())
    return f"{HEAD}\n\n# {title}\n\n{intro.strip()}\n\n{body}\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a Markdown table; empty text when there are no rows."""
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    head = "| " + " | ".join(columns) + " |"
    return "\n".join([head, "|" + "---|" * len(columns), *lines])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Give inline code; nothing for empty text."""
    return f"`{text}`" if text else ""


def first_line(thing: Any) -> str:
    """Give the sentence that a class or function begins its docstring with, over its line breaks."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def attribute_docs(kind: type) -> dict[str, str]:
    """Give the docstrings that stand below the fields of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] in ("builtins", "pydantic", "abc", "typing"):
            continue
        found |= _own_docs(base)
    return found


def _own_docs(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = typing.cast("ast.ClassDef", tree.body[0]).body
    found: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def fields_table(kind: type[BaseModel], prefix: str = "") -> str:
    """Give the keys of a model as a table: name, type, default, meaning."""
    docs = attribute_docs(kind)
    rows = []
    for name, field in kind.model_fields.items():
        meaning = docs.get(name) or KEY_MEANINGS.get(name, "")
        if not meaning and (inner := model_in(field.annotation)) is not None:
            meaning = first_line(inner)
        rows.append((code(prefix + (field.alias or name)), type_of(field), default_of(field), meaning))
    return table(("key", "type", "default", "meaning"), rows)


def meaningless(kind: type[BaseModel]) -> list[str]:
    """Name the fields of a model of which nothing is said and that are no group either."""
    docs = attribute_docs(kind)
    return [
        f"{kind.__module__}.{kind.__name__}.{name}"
        for name, field in kind.model_fields.items()
        if not docs.get(name) and name not in KEY_MEANINGS and model_in(field.annotation) is None
    ]


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Give the model that an annotation holds, directly or inside a list or mapping."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    found = [model_in(inner) for inner in typing.get_args(annotation)]
    return next((inner for inner in found if inner is not None), None)


def type_of(field: FieldInfo) -> str:
    """Give a field's type and bounds in words."""
    if any(_is_secret(meta) for meta in field.metadata):
        return "secret reference"
    bounds = [text for meta in field.metadata for text in _bounds(meta)]
    return _type(field.annotation) + (f", {', '.join(bounds)}" if bounds else "")


def _bounds(meta: Any) -> list[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(meta, key):,}"
        for key, sign in signs.items()
        if getattr(meta, key, None) is not None
    ]
    if getattr(meta, "max_length", None):
        found.append(f"at most {meta.max_length:,} long")
    return found


_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Any: "any",
    type(None): "null",
}


def _type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _secret_or(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(inner) for inner in args))
    if origin is typing.Literal:
        return ", ".join(code(str(value)) for value in args)
    return _container(origin, args) or _plain(annotation)


def _container(origin: Any, args: Sequence[Any]) -> str:
    if origin in (tuple, list, set, frozenset):
        return f"list of {_type(args[0])}"
    return f"mapping to {_type(args[1])}" if origin in (dict, Mapping) else ""


def _plain(annotation: Any) -> str:
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return ", ".join(code(str(member.value)) for member in annotation)
    return _NAMES.get(annotation) or _group_name(annotation)


def _secret_or(annotation: Any) -> str:
    inner, *metadata = typing.get_args(annotation)
    return "secret reference" if any(_is_secret(meta) for meta in metadata) else _type(inner)


def _is_secret(meta: Any) -> bool:
    schema = getattr(meta, "json_schema", None)
    return isinstance(schema, dict) and "credential" in str(schema.get("pattern", ""))


def _group_name(annotation: Any) -> str:
    name = getattr(annotation, "__name__", str(annotation))
    return (
        f"[{name}](#{name.lower()})"
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel)
        else name
    )


def default_of(field: FieldInfo) -> str:
    """Give a field's default as YAML would write it, or that it is required."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel) or value in ((), {}, []):
        return "" if isinstance(value, BaseModel) else "empty"
    if isinstance(value, dict) and any(isinstance(inner, BaseModel) for inner in value.values()):
        return ", ".join(code(name) for name in value)
    plain = value.value if isinstance(value, Enum) else value
    return code(plain if isinstance(plain, str) and plain else json.dumps(plain))
