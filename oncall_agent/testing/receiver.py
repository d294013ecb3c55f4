"""Stands where the library apprise stands, for tests of paging."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeApprise:
    """Put it into `sys.modules["apprise"]`; `sent` holds `(url, title, body)`.

    Attributes:
        is_down: channels refuse every page.
        hold: while cleared, channels do not answer (at most 5 s).
    """

    sent: list[tuple[str, str, str]] = field(default_factory=list)
    is_down: bool = False
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    def Apprise(self) -> _Channel:  # noqa: N802 - the library's own name
        """Give a channel list, as the library's class does."""
        return _Channel(self)


class _Channel:
    def __init__(self, library: FakeApprise) -> None:
        self._library, self._urls = library, list[str]()

    def add(self, url: str) -> bool:
        self._urls.append(url)
        return "://" in url

    def notify(self, *, title: str, body: str, **_more: Any) -> bool:
        self._library.hold.wait(5.0)
        if self._library.is_down:
            return False
        self._library.sent += [(url, title, body) for url in self._urls]
        return True
