"""The head of a plain webhook, read strictly: whatever needs more of HTTP than that is not plain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from multidict import CIMultiDict

MOST_HEAD_BYTES: Final = 8_192
_ASKED: Final = re.compile(rb"POST /webhooks/([A-Za-z0-9._~-]+) HTTP/1\.1")
_FIELD: Final = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\x20-\x7e\t]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_NOT_PLAIN: Final = frozenset(
    {"connection", "content-encoding", "expect", "trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a plain webhook says.

    Attributes:
        length: of the body, in bytes.
        headers: each name once, found in any case.
    """

    source: str
    length: int
    host: str
    headers: CIMultiDict[str]
    method: str = "POST"


@lru_cache(maxsize=256)
def plain_head(head: bytes) -> Head | None:
    """Read a head without its empty line; None unless it is plain.

    A sender repeats its heads to the byte, so that most of them were read before.
    """
    asked, *lines = head.split(b"\r\n")
    found = _ASKED.fullmatch(asked)
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None or (name := field[1].decode()) in headers or name.lower() in _NOT_PLAIN:
            return None
        headers[name] = field[2].decode().strip()
    length, host = headers.get("Content-Length", ""), headers.get("Host")
    if found is None or host is None or _LENGTH.fullmatch(length) is None:
        return None
    return Head(found[1].decode(), int(length), host, headers)
