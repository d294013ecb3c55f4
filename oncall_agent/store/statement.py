"""A Core statement compiled once and handed to the driver as text.

Why: the store lives on few statements that run very often. Executing them through SQLAlchemy costs more time
than SQLite needs for the work itself; compiling them once keeps one definition for both databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Text, bindparam, func, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import Table
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.sql.selectable import TableValuedAlias

Row = tuple[Any, ...]


class texts(GenericFunction[str]):  # noqa: N801 - the name is the SQL function's
    """The texts of a JSON array as rows: many keys in one parameter, so the statement's text never varies."""

    inherit_cache = True
    name = "texts"


@compiles(texts, "sqlite")
def _texts_sqlite(element: texts, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(texts, "postgresql")
def _texts_postgresql(element: texts, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **kw)} AS JSON))"


def each(name: str) -> TableValuedAlias:
    """Give a table with the column `value` from the parameter `name`, a JSON array of texts."""
    return func.texts(bindparam(name, type_=Text)).table_valued("value", name=f"each_{name}")


class _Plan:
    __slots__ = ("defaults", "names", "sql")

    def __init__(self, clause: ClauseElement, dialect: Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self.defaults: Mapping[str, Any] = compiled.params

    def bind(self, values: Mapping[str, Any]) -> Row:
        defaults = self.defaults
        return tuple([values[name] if name in values else defaults[name] for name in self.names])


class Statement:
    """One statement; `build` may depend on the dialect's name where the databases have different words."""

    __slots__ = ("_build", "_plans")

    def __init__(self, build: ClauseElement | Callable[[str], ClauseElement]) -> None:
        self._build: Final = build
        self._plans: dict[str, _Plan] = {}

    def plan(self, dialect: Dialect) -> _Plan:
        """Give its text and parameter order."""
        plan = self._plans.get(dialect.name)
        if plan is None:
            build = self._build
            clause = build if isinstance(build, ClauseElement) else build(dialect.name)
            plan = self._plans[dialect.name] = _Plan(clause, dialect)
        return plan


def insert_into(table: Table) -> Statement:
    """Insert whole rows, values in the order of the table's columns."""
    return Statement(insert(table))


def upsert(table: Table, keys: Sequence[str], change: Callable[[Any, Any], Mapping[str, Any]]) -> Statement:
    """Insert whole rows, or change those that are there; `change(columns, new)` gives the values."""

    def build(dialect: str) -> ClauseElement:
        statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
        values = change(table.c, statement.excluded)
        clause: ClauseElement = statement.on_conflict_do_update(index_elements=list(keys), set_=values)
        return clause

    return Statement(build)


class Tx:
    """The open transaction of one connection."""

    __slots__ = ("_cursor", "_dialect")

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor, self._dialect = cursor, dialect

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        """Give all rows."""
        plan = statement.plan(self._dialect)
        self._cursor.execute(plan.sql, plan.bind(values))
        found: list[Row] = self._cursor.fetchall()
        return found

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """Give the first row, None if there is none."""
        plan = statement.plan(self._dialect)
        self._cursor.execute(plan.sql, plan.bind(values))
        found: Row | None = self._cursor.fetchone()
        return found

    def run(self, statement: Statement, **values: Any) -> int:
        """Execute and give the number of rows touched."""
        plan = statement.plan(self._dialect)
        self._cursor.execute(plan.sql, plan.bind(values))
        return int(self._cursor.rowcount)

    def many(self, statement: Statement, rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute once per row of named values."""
        plan = statement.plan(self._dialect)
        self._all(plan.sql, [plan.bind(row) for row in rows])

    def insert(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Execute once per row of values in the statement's own order."""
        self._all(statement.plan(self._dialect).sql, rows)

    def text(self, sql: str) -> None:
        """Execute a word of transaction control."""
        self._cursor.execute(sql)

    def _all(self, sql: str, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            self._cursor.execute(sql, rows[0])
        elif rows:
            self._dialect.do_executemany(self._cursor, sql, list(rows), None)
