"""The checkpoint of a structured streaming query, as files: is it whole, how far has it come. Read-only."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_ENTRIES = 100_000


def unreadable(checkpoint: Path) -> str:
    """Give the reason why a query could not go on from here, or an empty text."""
    try:
        with (checkpoint / "metadata").open("rb") as stream:
            text = stream.read(4_096)
        batch = batch_of(checkpoint)
    except OSError as error:
        return f"the checkpoint can't be read: {type(error).__name__}"
    if b'"id"' not in text:
        return "the checkpoint has no identity: it is not one of structured streaming"
    return "" if batch >= 0 else "the checkpoint holds no batch yet"


def batch_of(checkpoint: Path) -> int:
    """Give the number of the newest batch that is begun; -1 when there is none.

    Raises:
        OSError: it can't be read.
    """
    newest = -1
    with os.scandir(checkpoint / "offsets") as entries:
        for count, entry in enumerate(entries):
            if count >= _MAX_ENTRIES:
                break
            if entry.name.isdecimal():
                newest = max(newest, int(entry.name))
    return newest
