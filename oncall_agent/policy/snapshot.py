"""A policy as bytes: an npz archive without pickle, with a header and a digest of everything in it.

Anything that is not exactly what `pack` wrote is refused with the reason; nothing of it is loaded. The digest
finds corruption, it does not authenticate: who may write the store may write the policy.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from oncall_agent.errors import PolicyError
from oncall_agent.policy.arm import Arm

Arrays = dict[str, npt.NDArray[Any]]

FORMAT: Final = 1
MAX_BYTES: Final = 256 * 1024 * 1024
"""Bound of what is unpacked: far above the largest policy."""

_NAMES: Final = ("header", "gram", "moment", "covariance")
_DIGEST: Final = "digest"
_LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)  # no clock: the same policy gives the same bytes


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a linear policy has learned; `weight` is the one its arms' posteriors were computed with."""

    kind: str
    schema: str
    version: int
    weight: float
    arms: dict[str, Arm]


def pack(state: State) -> bytes:
    """Give the archive; equal states give equal bytes."""
    arms = list(state.arms.values())
    header = {
        "format": FORMAT,
        "kind": state.kind,
        "schema": state.schema,
        "version": state.version,
        "weight": state.weight,
        "actions": list(state.arms),
        "counts": [arm.count for arm in arms],
    }
    arrays: Arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        "gram": np.array([_upper(arm.gram) for arm in arms], dtype=np.float64),
        "moment": np.array([arm.moment for arm in arms], dtype=np.float64),
        "covariance": np.array([_upper(arm.table[:-1]) for arm in arms], dtype=np.float64),
    }
    return _archive({**arrays, _DIGEST: _digest(arrays)})


def unpack(blob: bytes, kind: str, schema: str, size: int, weight: float) -> State:
    """Give the state of an archive, its posteriors under a prior of this weight.

    Raises:
        PolicyError: corrupted, of another format, kind or features schema, or not possible.
    """
    arrays = _arrays(blob)
    header = _header(arrays, kind, schema)
    actions, counts = header["actions"], header["counts"]
    grams, moments, covariances = arrays["gram"], arrays["moment"], arrays["covariance"]
    triangle = size * (size + 1) // 2
    shapes = [(len(actions), triangle), (len(actions), size), (len(actions), triangle)]
    if any(array.dtype != np.float64 for array in (grams, moments, covariances)):
        raise PolicyError("snapshot: its arrays are not of type float64")
    if actions and [grams.shape, moments.shape, covariances.shape] != shapes:
        raise PolicyError(
            f"snapshot: its arrays do not have the shapes of {len(actions)} arms of {size} columns"
        )
    if not all(np.isfinite(array).all() for array in (grams, moments, covariances)):
        raise PolicyError("snapshot: a number is not finite")
    same = header["weight"] == weight
    arms = {}
    for row, (action, count) in enumerate(zip(actions, counts, strict=True)):
        covariance = covariances[row] if same else None
        arms[action] = _arm(grams[row], moments[row], covariance, count, weight)
    return State(kind, schema, header["version"], weight, arms)


def _arm(
    gram: npt.NDArray[np.float64],
    moment: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64] | None,
    count: int,
    weight: float,
) -> Arm:
    """Give an arm; with its covariance bit for bit as it was, else computed from the evidence."""
    size = len(moment)
    try:
        arm = Arm.of_evidence(_square(gram, size), moment.copy(), count, weight)
    except np.linalg.LinAlgError as error:
        raise PolicyError("snapshot: its evidence is not possible") from error
    if covariance is not None:
        arm.table[:-1] = _square(covariance, size)
        arm.table[-1] = arm.table[:-1] @ arm.moment
    return arm


def _header(arrays: Arrays, kind: str, schema: str) -> Mapping[str, Any]:
    """Give the header after checking that it is one of ours."""
    try:
        header = json.loads(arrays["header"].tobytes())
    except ValueError as error:
        raise PolicyError("snapshot: its header is not JSON") from error
    if not isinstance(header, dict):
        raise PolicyError("snapshot: its header is no object")
    for key, expected in (("format", FORMAT), ("kind", kind), ("schema", schema)):
        if header.get(key) != expected:
            raise PolicyError(f"snapshot: {key} is {header.get(key)!r}, expected {expected!r}")
    if not _is_possible(header):
        raise PolicyError("snapshot: its header is not one that this program writes")
    return header


def _is_possible(header: Mapping[str, Any]) -> bool:
    """Say whether version, weight, actions and counts can be those of a policy."""
    version, weight = header.get("version"), header.get("weight")
    actions, counts = header.get("actions"), header.get("counts")
    if not (isinstance(actions, list) and isinstance(counts, list) and len(actions) == len(counts)):
        return False
    names_are_good = all(isinstance(action, str) for action in actions) and len(set(actions)) == len(actions)
    counts_are_good = all(isinstance(count, int) and count > 0 for count in counts)
    version_is_good = isinstance(version, int) and version >= 0
    return version_is_good and isinstance(weight, float) and names_are_good and counts_are_good


def _archive(arrays: Arrays) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            body = io.BytesIO()
            np.lib.format.write_array(body, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, body.getvalue(), compresslevel=1)
    return out.getvalue()


def _arrays(blob: bytes) -> Arrays:
    """Give the arrays of an archive whose digest is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            names = [f"{name}.npy" for name in (*_NAMES, _DIGEST)]
            if (
                archive.namelist() != names
                or sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES
            ):
                raise PolicyError("snapshot: not a policy of this program")
            arrays = {name.removesuffix(".npy"): _read(archive.read(name)) for name in names}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise PolicyError(f"snapshot: corrupted: {error}") from error
    stored = arrays.pop(_DIGEST)
    if stored.tobytes() != _digest(arrays).tobytes():
        raise PolicyError("snapshot: corrupted: its digest does not fit its content")
    return arrays


def _read(body: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
    return array


def _digest(arrays: Arrays) -> npt.NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name in _NAMES:
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _upper(square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give the upper triangle: all there is of a symmetric matrix."""
    return square[np.triu_indices(len(square))]


def _square(upper: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Give the symmetric matrix of an upper triangle."""
    square = np.zeros((size, size))
    square[np.triu_indices(size)] = upper
    return square + np.triu(square, 1).T
