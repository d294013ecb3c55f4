"""What the policy has learnt: every update with its version, and checkpoints so that reading stays short."""

from __future__ import annotations

import orjson
from sqlalchemy import bindparam, delete, func, select

from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.store.codec import dump
from oncall_agent.store.schema import policy_checkpoints, policy_updates
from oncall_agent.store.statement import Statement, Tx, insert_into, upsert

_U, _C = policy_updates.c, policy_checkpoints.c
_ADD = insert_into(policy_updates)
_KEEP = upsert(policy_checkpoints, ["version"], lambda _, new: {"blob": new.blob, "at": new.at})
_CHECKPOINT = Statement(
    select(_C.version, _C.blob).where(_C.version <= bindparam("most")).order_by(_C.version.desc()).limit(1)
)
_UPDATES = Statement(
    select(policy_updates)
    .where(_U.version > bindparam("after"), _U.version <= bindparam("most"))
    .order_by(_U.version)
)
_LAST = Statement(
    select(
        select(func.coalesce(func.max(_U.version), 0)).scalar_subquery(),
        select(func.coalesce(func.max(_C.version), 0)).scalar_subquery(),
    )
)
_LAST_BEFORE = Statement(select(func.max(_C.version)).where(_C.at < bindparam("before")))
_FORGET_UPDATES = Statement(delete(policy_updates).where(_U.version <= bindparam("most")))
_FORGET_CHECKPOINTS = Statement(delete(policy_checkpoints).where(_C.version < bindparam("most")))
NEWEST = 2**62


def write_update(tx: Tx, update: PolicyUpdate, at: float) -> None:
    """Write one update under the next version, whatever it carries.

    Numbered here and not by the caller, so that a change that fails leaves no gap: the learner applies its
    updates in the order in which commits are answered, which is this order.
    """
    tx.insert(
        _ADD, [(1 + last_version(tx), update.action, dump(update.features), update.reward, update.prior, at)]
    )


def last_version(tx: Tx) -> int:
    """Give the version after the newest update or checkpoint, 0 when nothing was learnt."""
    row = tx.row(_LAST)
    return 0 if row is None else int(max(row[0], row[1]))


def read_policy(tx: Tx, version: int = NEWEST) -> tuple[bytes | None, list[PolicyUpdate]]:
    """Give the newest checkpoint up to a version, and the updates that lead from it to that version."""
    row = tx.row(_CHECKPOINT, most=version)
    after = -1 if row is None else row[0]
    updates = [
        PolicyUpdate(found[0], found[1], tuple(orjson.loads(found[2])), found[3], found[4])
        for found in tx.rows(_UPDATES, after=after, most=version)
    ]
    return (None if row is None else bytes(row[1])), updates


def write_checkpoint(tx: Tx, version: int, blob: bytes, now: float) -> None:
    """Keep the policy as it is at a version."""
    tx.insert(_KEEP, [(version, blob, now)])


def forget_policy(tx: Tx, before: float) -> None:
    """Forget what led to the last checkpoint made before then; later versions stay computable."""
    row = tx.row(_LAST_BEFORE, before=before)
    if row is not None and row[0] is not None:
        tx.run(_FORGET_UPDATES, most=row[0])
        tx.run(_FORGET_CHECKPOINTS, most=row[0])
