"""Apply folded changes: one statement a table, whatever the number of rows.

The statement is made from the table as it is in the database, so that a table is described in one
place, its SQL definition. Counters of a table are derived from the very rows that change, in the
same statement: they cannot drift from what they count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from eventlog.connections import Connection
from projections.changes import Key, Patch, Put, Table
from projections.engine.fold import Dated

VERSION = "version"
"""The column of tables whose rows are entities."""

SELECT_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod)
  FROM pg_attribute a
 WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attgenerated = ''
 ORDER BY a.attnum
"""

APPLY = """
WITH input AS MATERIALIZED (
    SELECT (i->>'o') AS op, (i->>'w')::uuid AS workspace_id, (i->>'k')::{key_type} AS {key},
           i->'r' AS row, i->'a' AS add, i->'m' AS merge, (i->>'v')::integer AS version
      FROM jsonb_array_elements(%s::jsonb) AS i
){before},
removed AS (
    DELETE FROM {table} AS t USING input AS i
     WHERE i.op = 'remove' AND t.workspace_id = i.workspace_id AND t.{key} = i.{key}{newer}
),
patched AS (
    UPDATE {table} AS t SET ({columns}) = (
        SELECT {patched} FROM jsonb_populate_record(t, coalesce(i.row, '{{}}')) AS r)
      FROM input AS i
     WHERE i.op = 'patch' AND t.workspace_id = i.workspace_id AND t.{key} = i.{key}{newer}
    RETURNING {returning}
),
put AS (
    INSERT INTO {table} AS t (workspace_id, {key}, {columns})
    SELECT i.workspace_id, i.{key}, {fresh}
      FROM input AS i, jsonb_populate_record(NULL::{table}, i.row) AS r
     WHERE i.op = 'put'{not_older}
    ON CONFLICT (workspace_id, {key}) DO UPDATE SET ({columns}) = ROW({excluded})
    RETURNING {returning}
)
{finish}
"""

BEFORE = """,
before AS (
    SELECT {returning} FROM {table} AS t JOIN input AS i
        ON t.workspace_id = i.workspace_id AND t.{key} = i.{key}{newer}
)"""

# What happened to an entity before it moved to another account may come after what happened there:
# they are in two partitions of Kafka. The row knows by which version it is.
NEWER = " AND (i.version IS NULL OR t.version < i.version)"
NOT_OLDER = """
       AND NOT EXISTS (SELECT FROM {table} AS t
                        WHERE t.workspace_id = i.workspace_id AND t.{key} = i.{key}
                          AND t.version >= i.version)"""

COUNT = """
INSERT INTO {counts} AS c (workspace_id, {by}, n{sums})
SELECT workspace_id, {by}, sum(n) AS n{summed}
  FROM (SELECT *, -1 AS n FROM before
        UNION ALL SELECT *, 1 FROM patched
        UNION ALL SELECT *, 1 FROM put) AS moved
 GROUP BY workspace_id, {by}
HAVING sum(n) <> 0{having}
 ORDER BY workspace_id, {by}
    ON CONFLICT (workspace_id, {by}) DO UPDATE SET n = c.n + excluded.n{added}
"""


@dataclass(frozen=True)
class Statement:
    """The statement that applies changes to one table."""

    table: Table
    sql: bytes

    def apply(self, connection: Connection, changes: dict[Key, Dated]) -> None:
        """Apply one change for each row."""
        if changes:
            encoded = [_encode(key, each) for (_, key), each in changes.items()]
            connection.execute(self.sql, (orjson.dumps(encoded).decode(),), prepare=True)


def prepare(connection: Connection, schema: str, table: Table) -> Statement:
    """The statement for a table as it stands in this schema. Raises where the table is missing."""
    name = f"{schema}.{table.name}"
    types: dict[str, str] = dict(connection.execute(SELECT_COLUMNS, (name,)).fetchall())
    columns = [column for column in types if column not in {"workspace_id", table.key}]
    return Statement(table, _compose(name, schema, table, columns, types[table.key]).encode())


def _compose(name: str, schema: str, table: Table, columns: list[str], key_type: str) -> str:
    counts = table.counts
    returning = "t.workspace_id"
    if counts:
        returning = ", ".join(f"t.{c}" for c in ("workspace_id", *counts.by, *counts.sums))
    newer = NEWER if VERSION in columns else ""
    not_older = NOT_OLDER.format(table=name, key=table.key) if VERSION in columns else ""
    before = ""
    if counts:
        before = BEFORE.format(returning=returning, table=name, key=table.key, newer=newer)
    return APPLY.format(
        table=name,
        key=table.key,
        key_type=key_type,
        columns=", ".join(columns),
        patched=", ".join(_patched(table, column) for column in columns),
        fresh=", ".join(f"r.{column}" for column in columns),
        excluded=", ".join(f"excluded.{column}" for column in columns),
        returning=returning,
        before=before,
        newer=newer,
        not_older=not_older,
        finish=_count(f"{schema}.{counts.table}", table) if counts else "SELECT 1",
    )


def _patched(table: Table, column: str) -> str:
    if column in table.counters:
        return f"r.{column} + coalesce((i.add->>'{column}')::bigint, 0)"
    if column in table.maps:
        return f"jsonb_strip_nulls(r.{column} || coalesce(i.merge->'{column}', '{{}}'))"
    return f"r.{column}"


def _count(counts_table: str, table: Table) -> str:
    counts = table.counts
    assert counts is not None
    total = "sum(n * coalesce({0}, 0))"
    return COUNT.format(
        counts=counts_table,
        by=", ".join(counts.by),
        sums="".join(f", {column}" for column in counts.sums),
        summed="".join(f", {total.format(column)}" for column in counts.sums),
        having="".join(f" OR {total.format(column)} <> 0" for column in counts.sums),
        added="".join(f", {column} = c.{column} + excluded.{column}" for column in counts.sums),
    )


def _encode(key: str, dated: Dated) -> dict[str, object]:
    change = dated.change
    encoded: dict[str, object] = {"w": dated.workspace_id, "k": key, "v": dated.version}
    if isinstance(change, Put):
        encoded.update(o="put", r=change.row)
    elif isinstance(change, Patch):
        encoded.update(o="patch", r=change.row, a=change.add, m=change.merge)
    else:
        encoded["o"] = "remove"
    return encoded


def statements(
    connection: Connection, schema: str, tables: Iterable[Table]
) -> dict[str, Statement]:
    """The statements of some tables, by table."""
    return {table.name: prepare(connection, schema, table) for table in tables}
