"""The audit log: append-only, each row carries the hash of the one before."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from sqlalchemy import bindparam, select

from oncall_agent.models import JsonObject
from oncall_agent.store.codec import clean, dump
from oncall_agent.store.rows import audit_row
from oncall_agent.store.schema import audit
from oncall_agent.store.statement import Row, Statement, Tx, insert_into
from oncall_agent.store.unit import Unit, read_counter
from oncall_agent.store.values import AuditReport, AuditRow

_C = audit.c
_GENESIS: Final = "0" * 64
_SLICE: Final = 1000
_LAST = Statement(select(_C.number, _C.hash).order_by(_C.number.desc()).limit(1).with_for_update())
_ADD = insert_into(audit)
_NEWEST = Statement(select(audit).order_by(_C.number.desc()).limit(bindparam("most")))
_FOLLOWING = Statement(select(audit).where(_C.number > bindparam("after")).order_by(_C.number).limit(_SLICE))


def record(unit: Unit, at: float, *, identity: str, verb: str, subject: str, detail: JsonObject) -> None:
    """Append who did what to what, in the transaction that does it."""
    last = unit.tx.row(_LAST)
    number, previous = (1, _GENESIS) if last is None else (last[0] + 1, last[1])
    fields = (number, at, clean(identity), verb, clean(subject), dump(detail), previous)
    unit.tx.insert(_ADD, [(*fields, _hash(fields))])
    unit.count("audited")


def _hash(fields: Row) -> str:
    """Give the hash over everything but itself; lengths keep two fields from running into each other."""
    text = "".join(f"{len(part)}:{part}" for part in (repr(field) for field in fields))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def newest(tx: Tx, most: int) -> tuple[AuditRow, ...]:
    """Give the last rows, newest first."""
    return tuple(audit_row(row) for row in tx.rows(_NEWEST, most=most))


def verify(tx: Tx) -> AuditReport:
    """Walk the chain from its start, in slices; rows missing at its end are found by their count."""
    number, previous = 0, _GENESIS
    while found := tx.rows(_FOLLOWING, after=number):
        for row in found:
            if row[0] != number + 1 or row[6] != previous or _hash(tuple(row[:7])) != row[7]:
                return AuditReport(ok=False, rows=number, first_bad=number + 1)
            number, previous = row[0], row[7]
    if number != read_counter(tx, "audited"):
        return AuditReport(ok=False, rows=number, first_bad=number + 1)
    return AuditReport(ok=True, rows=number)
