"""The random draw of a decision, a function of its seed alone.

A stored seed must give the same draw years later on another machine. numpy promises that of no distribution of
its generators (NEP 19), so the uniform numbers are taken from SHAKE-128 (FIPS 202) and made normal here.
"""

from __future__ import annotations

import hashlib
from statistics import NormalDist
from struct import unpack
from typing import Final

from oncall_agent.errors import PolicyError

MAX_SEED: Final = 2**64 - 1

_STANDARD: Final = NormalDist()
_UNIT: Final = 2.0**-52  # 52 bits and a half are exact, and never 0 or 1


def normals(seed: int, count: int) -> list[float]:
    """Give `count` standard normal numbers; the first n do not depend on how many are asked for.

    Raises:
        PolicyError: the seed is not in 0..`MAX_SEED`.
    """
    if not 0 <= seed <= MAX_SEED:
        raise PolicyError(f"seed {seed} is not in 0..2**64-1")
    stream = hashlib.shake_128(seed.to_bytes(8, "little")).digest(8 * count)
    inverse = _STANDARD.inv_cdf
    words = unpack(f"<{count}Q", stream)
    return [inverse(((word >> 12) + 0.5) * _UNIT) for word in words]
