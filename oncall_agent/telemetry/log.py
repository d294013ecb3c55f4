"""Structured log: JSON lines on standard output, bounded in length and in number, secrets taken out.

Lines go through a bounded queue to a thread, so that a slow journal never stops the event loop; what does
not fit is counted and said once there is room again.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, BinaryIO

import orjson
import structlog

from oncall_agent.contract.secret import Secret, redact

MAX_TEXT = 2_000
MAX_LINE = 16_384
_SECRET_KEYS = ("password", "secret", "token", "authorization", "cookie", "api_key", "credential")
_WAITING_LINES = 10_000
_BLOCK_LINES = 256


class LineSink:
    """Writes lines from a thread of its own; `write` never blocks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[bytes | None] = queue.Queue(_WAITING_LINES)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line, or count it as dropped when the queue is at its bound."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what is queued and stop."""
        try:
            self._lines.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        said = 0
        while (line := self._lines.get()) is not None:
            lines = [line]
            while len(lines) < _BLOCK_LINES and not self._lines.empty():
                following = self._lines.get()
                if following is None:
                    self._put(b"".join(lines))
                    return
                lines.append(following)
            if self.dropped > said:
                lines.append(
                    b'{"event":"log.dropped","level":"warning","lines":%d}\n' % (self.dropped - said)
                )
                said = self.dropped
            self._put(b"".join(lines))

    def _put(self, block: bytes) -> None:
        try:
            self._stream.write(block)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads us any more (closed pipe): the daemon's work goes on without a log.
            self.dropped += block.count(b"\n")


class _SinkLogger:
    def __init__(self, sink: LineSink) -> None:
        self._sink = sink

    def msg(self, line: bytes) -> None:
        self._sink.write(line)

    debug = info = warning = error = critical = exception = msg


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, Secret) or any(word in key.lower() for word in _SECRET_KEYS):
        return "***"
    if isinstance(value, str):
        return redact(value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}... ({len(value)} characters)")
    if isinstance(value, Mapping):
        return {str(inner): _clean(str(inner), entry) for inner, entry in list(value.items())[:64]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, entry) for entry in list(value)[:64]]
    if isinstance(value, int | float | bool) or value is None:
        return value
    return _clean(key, str(value))


def clean(_: Any, __: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Take secrets out and bound every value; a structlog processor."""
    return {key: _clean(key, value) for key, value in fields.items()}


def _render(_: Any, __: str, fields: MutableMapping[str, Any]) -> bytes:
    line = orjson.dumps(fields, default=str)
    if len(line) > MAX_LINE:
        kept = {key: value for key, value in fields.items() if not isinstance(value, dict | list)}
        line = orjson.dumps({**kept, "truncated": True}, default=str)[: MAX_LINE * 2]
    return line + b"\n"


_current: list[LineSink] = []


def configure(level: str = "info", stream: BinaryIO | None = None) -> LineSink:
    """Set structlog up for this process; the sink given back is closed at its end."""
    sink = LineSink(stream or sys.stdout.buffer)
    _current[:] = [sink]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            clean,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_factory(sink),
        cache_logger_on_first_use=False,
    )
    return sink


def dropped_lines() -> int:
    """Give how many lines nobody took in time since the log was configured."""
    return _current[-1].dropped if _current else 0


def _factory(sink: LineSink) -> Callable[..., _SinkLogger]:
    return lambda *_: _SinkLogger(sink)


def logger(**bound: Any) -> Any:
    """Give a logger with these fields on every line."""
    return structlog.get_logger().bind(**bound)
