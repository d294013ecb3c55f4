"""Ids of everything that is stored: text, unique everywhere, sortable by the moment of making."""

from __future__ import annotations

from uuid_utils import uuid7


def new_id() -> str:
    """Give a fresh UUID version 7 as text; later ones of one process sort after earlier ones."""
    return str(uuid7())
