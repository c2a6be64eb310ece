"""Comparing rows: of two tables, or of a table with a fresh fold."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from psycopg import sql

from eventlog.connections import Connection
from projections.changes import Projection, Row, RowKey, Table
from projections.engine.rows.statements import SELECT_COLUMNS

DIFFERENT_ROWS_MAX = 20
"""Maximum number of differing rows of a table that are named."""

CHECKSUM = """
SELECT count(*), coalesce(sum(hash_record_extended({columns}, 0)), 0) FROM {table} WHERE {filter}
"""

DIFFERENCE = """
SELECT coalesce(a.key, b.key), a.row, b.row
  FROM (SELECT {key} AS key, ROW({columns})::text AS row FROM {first} WHERE {filter}) AS a
  FULL JOIN (SELECT {key} AS key, ROW({columns})::text AS row FROM {second} WHERE {filter}) AS b
        USING (key)
 WHERE a.row IS DISTINCT FROM b.row
 ORDER BY 1 LIMIT %s
"""

SAME_ROW = """
SELECT (SELECT ROW({columns})::text FROM {table} AS t WHERE workspace_id = %s AND {key} = %s)
       IS NOT DISTINCT FROM
       (SELECT ROW({columns})::text FROM jsonb_populate_record(NULL::{table}, %s::jsonb) AS t
         WHERE %s)
"""


@dataclass(frozen=True)
class Checksum:
    """Equal for tables that have the same rows."""

    rows: int
    digest: int


@dataclass(frozen=True)
class Difference:
    """A row that differs between two tables; None on the side that lacks it."""

    table: str
    key: str
    first: str | None
    second: str | None


def number_of(differences: list[Difference]) -> str:
    """How many rows differ, in words: at most `DIFFERENT_ROWS_MAX` of each table are known."""
    at_least = "at least " if len(differences) >= DIFFERENT_ROWS_MAX else ""
    return f"{at_least}{len(differences)} rows differ"


@dataclass(frozen=True)
class ComparedTable:
    """A table whose rows are compared: a read table, or the counters that are kept of it."""

    name: str
    key: tuple[str, ...] = ()
    """The columns by which, beside the workspace, a differing row is named."""
    filter: str = "true"
    """SQL: which rows count. A counter of zero equals one that does not exist."""


def compared_tables(projection: Projection) -> list[ComparedTable]:
    """All tables of a projection."""
    tables = [ComparedTable(table.name, (table.key,)) for table in projection.tables]
    counted = [each for table in projection.tables for each in table.counts]
    return tables + [ComparedTable(each.table, each.by, "n <> 0") for each in counted]


def checksum(connection: Connection, schema: str, table: ComparedTable) -> Checksum:
    """Number of rows, and a digest of all their columns that does not depend on their order."""
    columns = _columns(connection, schema, table)
    statement = sql.SQL(CHECKSUM).format(
        columns=sql.SQL("ROW({})").format(_list(columns)),
        table=sql.Identifier(schema, table.name),
        filter=sql.SQL(table.filter),
    )
    row = connection.execute(statement).fetchone()
    assert row is not None
    return Checksum(row[0], int(row[1]))


def row_differences(
    connection: Connection, first_schema: str, second_schema: str, table: ComparedTable
) -> list[Difference]:
    """The first rows in which a table differs between two schemas."""
    columns = _columns(connection, second_schema, table)
    key = [sql.Identifier(column) for column in ("workspace_id", *table.key)]
    statement = sql.SQL(DIFFERENCE).format(
        key=sql.SQL("ROW({})::text").format(sql.SQL(", ").join(key)),
        filter=sql.SQL(table.filter),
        columns=_list(columns),
        first=sql.Identifier(first_schema, table.name),
        second=sql.Identifier(second_schema, table.name),
    )
    rows = connection.execute(statement, (DIFFERENT_ROWS_MAX,)).fetchall()
    return [Difference(table.name, *row) for row in rows]


def unequal_rows(
    connection: Connection, schema: str, projection: Projection, rows: dict[str, dict[RowKey, Row]]
) -> list[tuple[str, RowKey]]:
    """Table and key of each of these rows that differs from the row in the schema.

    An empty row means that the table must have no row with this key.
    """
    unequal = []
    for table in projection.tables:
        columns = _columns(connection, schema, table)
        statement = sql.SQL(SAME_ROW).format(
            columns=_list(columns),
            table=sql.Identifier(schema, table.name),
            key=sql.Identifier(table.key),
        )
        for key, row in rows.get(table.name, {}).items():
            document = orjson.dumps({**row, "workspace_id": key[0], table.key: key[1]}).decode()
            same = connection.execute(statement, (*key, document, bool(row))).fetchone()
            if not (same and same[0]):
                unequal.append((table.name, key))
    return unequal


def _columns(connection: Connection, schema: str, table: Table | ComparedTable) -> list[str]:
    return [
        row[0] for row in connection.execute(SELECT_COLUMNS, (f"{schema}.{table.name}",)).fetchall()
    ]


def _list(columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)
