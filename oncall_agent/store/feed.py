"""Who watches is told after each commit; who is slow loses the oldest and is told to read again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Self

from oncall_agent.store.values import FeedItem

RELOADED = FeedItem("", "", "feed.reloaded")
_BOUND = 256


class Subscription:
    """One watcher's bounded queue; iterate over it, `close` it (or leave the `with` block) at the end."""

    def __init__(self, feed: Feed, bound: int) -> None:
        self._feed, self._items = feed, deque[FeedItem](maxlen=bound)
        self._lost = self._closed = False
        self._ready = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedItem:
        await self._ready.wait()
        if self._closed:
            raise StopAsyncIteration
        return self._take()

    def close(self) -> None:
        """End the iteration and take no more items."""
        self._closed = True
        self._ready.set()
        self._feed.forget(self)

    def put(self, items: Iterable[FeedItem]) -> None:
        """Add items, the oldest make room."""
        for item in items:
            self._lost = self._lost or len(self._items) == self._items.maxlen
            self._items.append(item)
        self._ready.set()

    def _take(self) -> FeedItem:
        if self._lost:
            # What is left would be read anyway: one word stands for all of it.
            self._lost = False
            self._items.clear()
            self._ready.clear()
            return RELOADED
        item = self._items.popleft()
        if not self._items:
            self._ready.clear()
        return item


class Feed:
    """The list of watchers. Only used on the event loop's own thread."""

    def __init__(self) -> None:
        self._watchers: set[Subscription] = set()

    @property
    def is_watched(self) -> bool:
        """Whether anybody would see an item."""
        return bool(self._watchers)

    def subscribe(self, bound: int = _BOUND) -> Subscription:
        """Give a new watcher's queue of at most `bound` items."""
        subscription = Subscription(self, bound)
        self._watchers.add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Stop telling this watcher."""
        self._watchers.discard(subscription)

    def publish(self, items: Iterable[FeedItem]) -> None:
        """Tell all watchers."""
        told = tuple(items)
        if told:
            for watcher in self._watchers:
                watcher.put(told)
