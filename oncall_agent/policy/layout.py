"""How a context vector is laid out: groups of columns, their weight in the prior, and one name for it all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Columns that say one thing together.

    Attributes:
        label: what people read in an explanation.
        scale: how much a column of it is expected to matter: prior standard deviation relative to the class's.
    """

    label: str
    columns: tuple[str, ...]
    scale: float


@dataclass(frozen=True)
class Layout:
    """The columns of a context vector in order; `version` counts changes in how their values are computed."""

    version: int
    groups: tuple[Group, ...]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Give the name of every column."""
        return tuple(column for group in self.groups for column in group.columns)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Give the label of every group."""
        return tuple(group.label for group in self.groups)

    @cached_property
    def starts(self) -> npt.NDArray[np.intp]:
        """Give the first column of every group, (groups,) int."""
        sizes = [len(group.columns) for group in self.groups]
        return np.concatenate(([0], np.cumsum(sizes[:-1]))).astype(np.intp)

    @cached_property
    def scale(self) -> FloatArray:
        """Give the scale of every column, (d,) float64, not writable."""
        values = np.array([group.scale for group in self.groups for _ in group.columns], dtype=np.float64)
        values.flags.writeable = False
        return values

    @cached_property
    def schema(self) -> str:
        """Give `v<version>:<digest of names and scales>`: equal only if the vectors mean the same."""
        text = "\n".join(f"{group.label} {group.columns} {group.scale!r}" for group in self.groups)
        return f"v{self.version}:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
