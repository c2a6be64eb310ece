"""The statements that apply folded changes: one per table, whatever the number of rows.

A statement is composed from the columns that the table has in the database, so a table is described
only in its SQL definition. The table's counters are derived from the changed rows in the same
statement, so they always equal what they count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from eventlog.connections import Connection
from eventlog.libpq.batches import BatchStatement
from projections.changes import Counts, RowKey, Table
from projections.engine.rows.fold import FoldedChange

VERSION = "version"
"""The column with the version of the row's entity. Tables without it apply every change."""

SELECT_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod)
  FROM pg_attribute a
 WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attgenerated = ''
 ORDER BY a.attnum
"""

INPUT = """
WITH input AS MATERIALIZED (
    SELECT (i->>'o') AS op, (i->>'w')::uuid AS workspace_id, (i->>'k')::{key_type} AS {key},
           i->'r' AS row, i->'a' AS add, i->'m' AS merge, (i->>'v')::integer AS version
      FROM jsonb_array_elements(%s::jsonb) AS i
)"""

REMOVE = """,
removed AS (
    DELETE FROM {table} AS t USING input AS i
     WHERE i.op = 'remove' AND t.workspace_id = i.workspace_id AND t.{key} = i.{key}{newer}
)"""

PATCH = """,
patched AS (
    UPDATE {table} AS t SET ({columns}) = (
        SELECT {patched} FROM jsonb_populate_record(t, i.row) AS r)
      FROM input AS i
     WHERE i.op = 'patch' AND t.workspace_id = i.workspace_id AND t.{key} = i.{key}{newer}
    RETURNING {returning}
)"""

PUT = """,
put AS (
    INSERT INTO {table} AS t (workspace_id, {key}, {columns})
    SELECT i.workspace_id, i.{key}, {fresh}
      FROM input AS i, jsonb_populate_record(NULL::{table}, i.row) AS r
     WHERE i.op = 'put'{not_older}
    ON CONFLICT (workspace_id, {key}) DO UPDATE SET ({columns}) = ROW({excluded})
    RETURNING {returning}
)"""

PARTS = {"remove": REMOVE, "patch": PATCH, "put": PUT}
"""The part of a statement for each kind of change; a statement has only the parts that it needs."""
AFTER = {
    "patch": " UNION ALL SELECT *, 1 FROM patched",
    "put": " UNION ALL SELECT *, 1 FROM put",
}
"""The rows that these parts return, to be counted."""

BEFORE = """,
before AS (
    SELECT {returning} FROM {table} AS t JOIN input AS i
        ON t.workspace_id = i.workspace_id AND t.{key} = i.{key}{newer}
)"""

# After an entity moved to another account, its earlier events may arrive later, because the two
# accounts are in different partitions of Kafka. The row's version shows which change is newer.
NEWER = " AND (i.version IS NULL OR t.version < i.version)"
NOT_OLDER = """
       AND NOT EXISTS (SELECT FROM {table} AS t
                        WHERE t.workspace_id = i.workspace_id AND t.{key} = i.{key}
                          AND t.version >= i.version)"""

MOVED = """,
moved AS (SELECT *, -1 AS n FROM before{after})"""

COUNT = """,
counted_{number} AS (
    INSERT INTO {counts} AS c ({by}, n{sums})
    SELECT {by}, sum(n) AS n{summed} FROM moved
     GROUP BY {by}
    HAVING sum(n) <> 0{having}
     ORDER BY {by}
        ON CONFLICT ({by}) DO UPDATE SET n = c.n + excluded.n{added}
)"""


@dataclass
class Statement:
    """Composes statements that apply changes to one table, by the kinds of change in a batch."""

    table: Table
    schema: str
    types: dict[str, str]
    """The column types."""
    composed: dict[frozenset[str], bytes] = field(default_factory=dict)

    def of(self, changes: dict[RowKey, FoldedChange]) -> BatchStatement:
        """The statement, with its value, that applies one change to each row."""
        encoded = [self._encode(*key, each) for key, each in changes.items()]
        operations = frozenset([each["o"] for each in encoded])
        statement = self.composed.get(operations)
        if statement is None:
            statement = self.composed[operations] = self._compose(operations).encode()
        return statement, (orjson.dumps(encoded).decode(),)

    def _encode(self, workspace_id: str, key: str, change: FoldedChange) -> dict[str, Any]:
        encoded: dict[str, Any] = {
            "o": change.operation,
            "w": workspace_id,
            "k": key,
            "v": change.version,
        }
        row = change.row
        if change.operation == "patch":
            table = self.table
            encoded["a"] = {name: row.pop(name) for name in table.counters if name in row}
            encoded["m"] = {name: row.pop(name) for name in table.maps if name in row}
        if row is not None:
            encoded["r"] = row
        return encoded

    def _compose(self, operations: frozenset[str]) -> str:
        table, name = self.table, f"{self.schema}.{self.table.name}"
        columns = [name for name in self.types if name not in {"workspace_id", table.key}]
        counted = [column for counts in table.counts for column in (*counts.by, *counts.sums)]
        returned = dict.fromkeys(["workspace_id", *counted])
        is_versioned = VERSION in columns
        text = INPUT + (BEFORE if table.counts else "")
        text += "".join(part for kind, part in PARTS.items() if kind in operations)
        return (
            text.format(
                table=name,
                key=table.key,
                key_type=self.types[table.key],
                columns=", ".join(columns),
                patched=", ".join(_patched(table, column) for column in columns),
                fresh=", ".join(f"r.{column}" for column in columns),
                excluded=", ".join(f"excluded.{column}" for column in columns),
                returning=", ".join(f"t.{column}" for column in returned),
                newer=NEWER if is_versioned else "",
                not_older=NOT_OLDER.format(table=name, key=table.key) if is_versioned else "",
            )
            + (self._count(operations) if table.counts else "")
            + " SELECT 1"
        )

    def _count(self, operations: frozenset[str]) -> str:
        after = "".join(AFTER[each] for each in AFTER if each in operations)
        return MOVED.format(after=after) + "".join(
            _count(number, f"{self.schema}.{counts.table}", counts)
            for number, counts in enumerate(self.table.counts)
            # A patch neither adds nor removes a row.
            if counts.by or counts.sums or operations != {"patch"}
        )


def load_statement(connection: Connection, schema: str, table: Table) -> Statement:
    """Load a table's columns for its statement. Raises `psycopg.Error` if the table is missing."""
    name = f"{schema}.{table.name}"
    types: dict[str, str] = dict(connection.execute(SELECT_COLUMNS, (name,)).fetchall())
    return Statement(table, schema, types)


def _patched(table: Table, column: str) -> str:
    if column in table.counters:
        return f"r.{column} + coalesce((i.add->>'{column}')::bigint, 0)"
    if column in table.maps:
        return f"jsonb_strip_nulls(r.{column} || coalesce(i.merge->'{column}', '{{}}'))"
    return f"r.{column}"


def _count(number: int, counts_table: str, counts: Counts) -> str:
    total = "sum(n * coalesce({0}, 0))"
    return COUNT.format(
        number=number,
        counts=counts_table,
        by=", ".join(("workspace_id", *counts.by)),
        sums="".join(f", {column}" for column in counts.sums),
        summed="".join(f", {total.format(column)}" for column in counts.sums),
        having="".join(f" OR {total.format(column)} <> 0" for column in counts.sums),
        added="".join(f", {column} = c.{column} + excluded.{column}" for column in counts.sums),
    )


def load_statements(
    connection: Connection, schema: str, tables: Iterable[Table]
) -> dict[str, Statement]:
    """Load the statements for some tables, by table name."""
    return {table.name: load_statement(connection, schema, table) for table in tables}
