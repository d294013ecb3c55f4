"""The few messages of MongoDB's wire protocol that a fake server or a relay has to understand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import decode, encode

_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_MAX_BYTES = 48_000_000
_REPLY = struct.Struct("<iqii")


@dataclass(frozen=True, slots=True)
class Request:
    """One command as it came: its raw bytes, and what is in them."""

    raw: bytes
    number: int
    code: int
    document: Mapping[str, Any]

    @property
    def command(self) -> str:
        """Its name: the first key."""
        return str(next(iter(self.document), ""))

    def answer(self, document: Mapping[str, Any]) -> bytes:
        """Give the bytes that answer it."""
        body = encode(dict(document))
        if self.code == _OP_QUERY:
            code, rest = _OP_REPLY, _REPLY.pack(8, 0, 0, 1) + body
        else:
            code, rest = _OP_MSG, struct.pack("<iB", 0, 0) + body
        return _HEADER.pack(_HEADER.size + len(rest), 0, self.number, code) + rest


async def read_raw(reader: asyncio.StreamReader) -> bytes:
    """Give the bytes of the next message; empty at the end."""
    try:
        head = await reader.readexactly(_HEADER.size)
        size = _HEADER.unpack(head)[0]
        if not _HEADER.size <= size <= _MAX_BYTES:
            return b""
        return head + await reader.readexactly(size - _HEADER.size)
    except (asyncio.IncompleteReadError, OSError):
        return b""


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Give the next command; None at the end, and for what is no command."""
    raw = await read_raw(reader)
    if not raw:
        return None
    _, number, _, code = _HEADER.unpack_from(raw)
    body = raw[_HEADER.size :]
    if code == _OP_MSG:
        return Request(raw, number, code, _sections(body[4:]))
    if code == _OP_QUERY:
        return Request(raw, number, code, decode(body[body.index(b"\0", 4) + 9 :]))
    return None


def _sections(body: bytes) -> dict[str, Any]:
    """Join the sections of an OP_MSG: one document, and sequences of documents under their names."""
    found: dict[str, Any] = {}
    sequences: dict[str, list[dict[str, Any]]] = {}
    while len(body) > struct.calcsize("<i"):
        kind, body = body[0], body[1:]
        size = struct.unpack_from("<i", body)[0]
        part, body = body[:size], body[size:]
        if kind == 0:
            found = decode(part)
        else:
            end = part.index(b"\0", 4)
            sequences[part[4:end].decode()] = _documents(part[end + 1 :])
    return {**found, **sequences}


def _documents(body: bytes) -> list[dict[str, Any]]:
    found = []
    while body:
        size = struct.unpack_from("<i", body)[0]
        found.append(decode(body[:size]))
        body = body[size:]
    return found
