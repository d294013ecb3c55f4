"""What a node says of itself, read in one go, and what follows from two such readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIB = 1_048_576
OLDEST = (1, 6)


@dataclass(frozen=True, slots=True)
class Stats:
    """One reading; counters count since the node was started."""

    version: str
    uptime: int
    time: int
    limit_bytes: int
    used_bytes: int
    items: int
    evictions: int
    gets: int
    hits: int
    flushes: int
    crawls: int
    automove: int
    may_reassign: bool
    has_crawler: bool
    may_flush: bool

    @property
    def limit_mb(self) -> int:
        """Its limit in MiB."""
        return self.limit_bytes // MIB

    @property
    def fill(self) -> float:
        """Share of the limit that items take, 0..1."""
        return self.used_bytes / max(1, self.limit_bytes)

    @property
    def hit_rate(self) -> float | None:
        """Share of reads that hit since its start; None without a read."""
        return self.hits / self.gets if self.gets else None

    def facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        rate = self.hit_rate
        return {
            "version": self.version,
            "uptime_seconds": self.uptime,
            "limit_mb": self.limit_mb,
            "used_mb": round(self.used_bytes / MIB, 1),
            "items": self.items,
            "evictions": self.evictions,
            "hit_rate": None if rate is None else round(rate, 4),
            "slab_automove": self.automove,
            "lru_crawler": self.has_crawler,
        }


@dataclass(frozen=True, slots=True)
class Slab:
    """One class of item sizes."""

    size_bytes: int
    pages: int
    free_chunks: int
    chunks_per_page: int
    evicted: int


def parsed(text: bytes) -> dict[str, str]:
    """Give name -> value of an answer to `stats`."""
    lines = (line.split(" ", 2) for line in text.decode(errors="replace").splitlines())
    return {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "STAT"}  # noqa: PLR2004


def read(client: Any) -> Stats:
    """Ask a node; what is no memcached fails at the first question."""
    client.version()
    now, conf = (
        parsed(client.raw_command("stats", "END\r\n")),
        parsed(client.raw_command("stats settings", "END\r\n")),
    )
    return Stats(
        version=now["version"],
        uptime=_number(now, "uptime"),
        time=_number(now, "time"),
        limit_bytes=_number(now, "limit_maxbytes"),
        used_bytes=_number(now, "bytes"),
        items=_number(now, "curr_items"),
        evictions=_number(now, "evictions"),
        gets=_number(now, "get_hits") + _number(now, "get_misses"),
        hits=_number(now, "get_hits"),
        flushes=_number(now, "cmd_flush"),
        crawls=_number(now, "lru_crawler_starts"),
        automove=_number(conf, "slab_automove"),
        may_reassign=conf.get("slab_reassign") == "yes",
        has_crawler=conf.get("lru_crawler") == "yes",
        may_flush=conf.get("flush_enabled", "yes") == "yes",
    )


def read_slabs(client: Any) -> dict[int, Slab]:
    """Ask a node for its classes of item sizes."""
    client.version()
    slabs = parsed(client.raw_command("stats slabs", "END\r\n"))
    items = parsed(client.raw_command("stats items", "END\r\n"))
    numbers = {int(name.partition(":")[0]) for name in slabs if name.partition(":")[0].isdecimal()}
    return {
        number: Slab(
            _number(slabs, f"{number}:chunk_size"),
            _number(slabs, f"{number}:total_pages"),
            _number(slabs, f"{number}:free_chunks"),
            _number(slabs, f"{number}:chunks_per_page"),
            _number(items, f"items:{number}:evicted"),
        )
        for number in sorted(numbers)
    }


def skewed(before: Mapping[int, Slab], now: Mapping[int, Slab]) -> tuple[list[int], int]:
    """Give the classes that evicted between two readings, and how many pages the others could spare."""
    evicting = [
        number
        for number, slab in now.items()
        if slab.evicted > (before[number].evicted if number in before else 0)
    ]
    spare = sum(max(0, slab.pages - 1) for number, slab in now.items() if number not in evicting)
    return evicting, spare


def per_second(before: int, after: int, seconds: float) -> float:
    """Give how fast a counter grew; one that was set back by a restart grew from zero."""
    grown = after - before if after >= before else after
    return grown / max(seconds, 0.001)


def unsupported(version: str) -> str:
    """Give why the actions do not support this version, or an empty text."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return "" if numbers >= OLDEST else "older than 1.6"


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        return int(found.get(name, "0"))
    except ValueError:
        return 0
