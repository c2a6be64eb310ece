"""Exports: all rows of a list, or of the audit trail, as CSV or NDJSON, in a consistent snapshot.

PostgreSQL makes the bytes (COPY … TO STDOUT) and Python passes them on, so memory holds one block
whatever the number of rows. A slow reader makes PostgreSQL wait.
"""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg import AsyncCopy
from psycopg.abc import PQGen

from domain.shared.fields import CUSTOM
from domain.shared.refusals import Refusal
from domain.shared.text import neutralised
from eventlog.locks import EXPORT_LOCK
from eventlog.reading.audit import select_entries
from eventlog.reading.counts import has_events
from readmodels.audit import ITEM, ITEM_SQL, AuditQuery
from readmodels.lists import ListQuery, selection
from readmodels.names import CUSTOM_PREFIX
from readmodels.pool import AsyncConnection, ReadPool
from readmodels.spec import CONTACTS, WHOLE_TABLE, ListSpec, joined

BLOCK_BYTES = 65_536
"""Approximate size of the blocks in which rows are passed on."""
CUSTOM_COLUMNS_MAX = 150
"""Maximum number of custom field columns of a CSV file. With the other columns they are fewer than
the 200 that an import accepts."""
KEY_SETS_MAX = 1_000
"""Maximum number of different sets of custom fields whose keys are taken from the index. If a list
has more, all its rows are read for them."""
SNAPSHOT_WAIT_S = 5.0
"""How long an export waits for a consistent snapshot."""
SNAPSHOT_POLL_S = 0.02

# JSON is copied in the binary format, because it needs no quotes and no line ends within a row: the
# text format would look at each character for them.
COPY = {
    "csv": "COPY ({query}) TO STDOUT (FORMAT csv)",
    "ndjson": "COPY ({query}) TO STDOUT (FORMAT binary)",
}
BINARY_MARK = b"PGCOPY"
BINARY_HEAD_BYTES = 19
"""The mark, its line ends, and two empty words; PostgreSQL sends them with the first row."""
BINARY_END = b"\xff\xff"
BINARY_FRAME_BYTES = 6
"""The number of columns and the length of the only one, before each row."""

# In one snapshot: the highest position of the projections, or of their partitions if they consume
# Kafka; whether the workspace has no events between the lowest and the highest; and how many of its
# entities are parked.
SELECT_POSITION = f"""
WITH positions AS MATERIALIZED (
    SELECT position FROM projections WHERE name = ANY(%(names)s)
     UNION ALL
    SELECT position FROM projection_offsets WHERE projection = ANY(%(names)s)
), span AS MATERIALIZED (
    SELECT min(position) AS first, max(position) AS last FROM positions
)
SELECT last,
       NOT {has_events("span.first", "span.last", "%(workspace)s")},
       (SELECT count(*) FROM projection_parked
         WHERE projection = ANY(%(names)s) AND workspace_id = %(workspace)s)
  FROM span
"""

# The statement does not wait for locks: no export starts while a swap waits to exchange the tables.
LOCK_TABLES = f"""
SELECT bool_and(pg_try_advisory_xact_lock_shared({EXPORT_LOCK}, hashtext(name)))
  FROM unnest(%(names)s::text[]) AS name
"""

# Equals domain.shared.text.neutralised; a test compares the two. Most cells need no regular
# expression, because their first character is none of \t \n \r ' + - = @.
NEUTRALISED = (
    "CASE WHEN ascii({cell}) = ANY('{{9,10,13,39,43,45,61,64}}')"
    " AND {cell} ~ E'^''*[-=+@\\t\\r\\n]' THEN '''' || {cell} ELSE {cell} END"
)

# The keys of all rows of a list, from one row of each set of keys that occurs. custom_fields_key is
# a hash of the set, and its index is read once for each value. Two of a thousand sets have the same
# hash with a probability of 3e-14.
KEY_SETS = """
WITH RECURSIVE sets AS (
    (SELECT t.custom_fields_key, t.custom_fields FROM {table} AS t
      WHERE t.workspace_id = %(workspace)s AND t.custom_fields_key IS NOT NULL
      ORDER BY t.custom_fields_key LIMIT 1)
    UNION ALL
    SELECT next.* FROM sets, LATERAL (
        SELECT t.custom_fields_key, t.custom_fields FROM {table} AS t
         WHERE t.workspace_id = %(workspace)s AND t.custom_fields_key > sets.custom_fields_key
         ORDER BY t.custom_fields_key LIMIT 1) AS next
), found AS MATERIALIZED (
    SELECT custom_fields FROM sets LIMIT %(sets_max)s + 1
)
SELECT (SELECT count(*) FROM found) <= %(sets_max)s,
       array(SELECT DISTINCT k FROM found, jsonb_object_keys(custom_fields) AS k
              ORDER BY k LIMIT %(keys_max)s + 1)
"""
CUSTOM_KEYS = """
SELECT DISTINCT k FROM ({rows}) AS t, jsonb_object_keys(t.custom_fields) AS k
 ORDER BY k LIMIT %(keys_max)s + 1
"""
# Only text is neutralised, so -5 remains a number and '-5' does not look like one.
CUSTOM_CELL = (
    "CASE WHEN ascii({text}) = ANY('{{9,10,13,39,43,45,61,64}}')"
    " AND jsonb_typeof(custom_fields -> {key}) = 'string' THEN {neutralised} ELSE {text} END"
)

AUDIT_CELLS: Mapping[str, str] = {
    **{name: sql for name, sql in ITEM.items() if name not in ("actor", "changes", "details")},
    "actorType": "e.metadata->'actor'->>'type'",
    "actorId": "e.metadata->'actor'->>'id'",
    "actorName": "e.metadata->'actor'->>'name'",
    "changes": ITEM["changes"],
    "details": ITEM["details"],
}
"""The cells of an entry in CSV: its actor as three cells, its changes as JSON in one."""

TEXT = frozenset({25, 1042, 1043})
"""Object ids of the text types, whose values a spreadsheet could take for formulas."""
TIMES = frozenset({1082, 1114, 1184})
"""Dates and times, which are written as in JSON."""
AS_TEXT = frozenset({16, 114, 3802})
"""Booleans and JSON: ::text gives `true` instead of `t`."""


class Format(StrEnum):
    """The format of the rows."""

    CSV = "csv"
    NDJSON = "ndjson"


@dataclass
class NoConsistentSnapshot(Refusal):
    """The projections stand at positions between which the workspace has events."""


@dataclass
class EntitiesParked(Refusal):
    """The export would lack entities of the workspace that are parked."""

    parked: int


@dataclass
class TooManyColumns(Refusal):
    """There are more custom fields than a CSV file may have columns."""

    limit: int


@dataclass(frozen=True)
class Export:
    """The first line of an export, and the statement that makes the others."""

    form: Format
    head: bytes
    statement: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A transaction that sees one workspace as of one position of the log."""

    connection: AsyncConnection
    position: int


@asynccontextmanager
async def consistent_snapshot(
    pool: ReadPool, workspace_id: UUID, projections: Collection[str]
) -> AsyncIterator[Snapshot]:
    """Open a snapshot in which the tables of these projections show one position of the log.

    Usually they do, because projectors move them together. No swap exchanges the tables before
    the transaction ends. Without projections it is a snapshot of the log. Raises
    `NoConsistentSnapshot` after `SNAPSHOT_WAIT_S` seconds, `EntitiesParked`, and what the pool
    raises.
    """
    if not projections:
        async with pool.log(workspace_id) as (connection, readable):
            yield Snapshot(connection, readable)
        return
    deadline = time.monotonic() + SNAPSHOT_WAIT_S
    while True:
        async with pool.workspace(workspace_id) as connection:
            position = await _lock_position(connection, workspace_id, projections)
            if position is not None:
                yield Snapshot(connection, position)
                return
        if time.monotonic() > deadline:
            raise NoConsistentSnapshot
        await asyncio.sleep(SNAPSHOT_POLL_S)


async def _lock_position(
    connection: AsyncConnection, workspace_id: UUID, projections: Collection[str]
) -> int | None:
    """Lock the tables, and return the position that all of them show; None if there is none."""
    parameters = {"names": sorted(projections), "workspace": workspace_id}
    locked = await (await connection.execute(LOCK_TABLES, parameters)).fetchone()
    row = await (await connection.execute(SELECT_POSITION, parameters)).fetchone()
    assert locked is not None
    assert row is not None
    position, is_consistent, parked = row
    if parked:
        raise EntitiesParked(parked)
    return int(position) if locked[0] and is_consistent else None


async def list_export(
    connection: AsyncConnection, spec: ListSpec, query: ListQuery, form: Format
) -> Export:
    """All items of a list: in NDJSON as the list shows them, in CSV with a column per field.

    CSV has no contacts, and a column `customFields.<key>` for each key that occurs. Raises
    `TooManyColumns`.
    """
    rows, order, parameters = selection(spec, query)
    # OFFSET 0 makes PostgreSQL sort the rows before it computes the items.
    source = f"({rows} ORDER BY {order} OFFSET 0) AS t"
    items, joins = joined(spec.items)
    source += joins
    if form is Format.NDJSON:
        if spec.with_contacts and query.include_contacts:
            items["contacts"] = CONTACTS
        named = ", ".join(f'{sql} AS "{name}"' for name, sql in items.items())
        query_sql = f"SELECT row_to_json(item) FROM (SELECT {named} FROM {source}) AS item"
        return _copy(form, b"", query_sql, parameters)
    cells = {name: sql for name, sql in items.items() if name != CUSTOM}
    keys = await _custom_keys(connection, spec, query, rows, parameters)
    custom = {f"{CUSTOM_PREFIX}{key}": f"%(custom{n})s::text" for n, key in enumerate(keys)}
    parameters |= {f"custom{n}": key for n, key in enumerate(keys)}
    return await _csv(connection, source, cells, parameters, custom)


async def audit_export(
    connection: AsyncConnection,
    query: AuditQuery,
    form: Format,
    upto: int,
    *,
    descending: bool = True,
) -> Export:
    """All entries of the audit trail up to a position that match the filters, in order."""
    parameters = {**replace(query, cursor=None).parameters(), "upto": upto}
    order = "DESC" if descending else "ASC"
    source = f"{select_entries(parameters.keys())} ORDER BY e.position {order}"
    if form is Format.NDJSON:
        return _copy(form, b"", f"SELECT {ITEM_SQL} FROM {source}", parameters)
    return await _csv(connection, source, AUDIT_CELLS, parameters, {})


async def blocks(connection: AsyncConnection, export: Export) -> AsyncGenerator[bytes, None]:
    """The export in blocks of about `BLOCK_BYTES`. Close the generator to stop early."""
    async with (
        connection.cursor() as cursor,
        cursor.copy(export.statement, export.parameters) as copy,
    ):
        block = await connection.wait(_read_block(copy, export.form, export.head))
        while block:
            yield block
            block = await connection.wait(_read_block(copy, export.form))


def _read_block(copy: AsyncCopy, form: Format, head: bytes = b"") -> PQGen[bytes]:
    """Rows until the block is full, without a switch to the event loop for each of them.

    `AsyncCopy.read`, which psycopg offers instead of `_read_gen`, gives one row for each switch
    and takes three times the CPU.
    """
    block = bytearray(head)
    while len(block) < BLOCK_BYTES:
        row = yield from copy._read_gen()
        if not row:
            break
        if form is Format.CSV:
            block += row
            continue
        if row[: len(BINARY_MARK)] == BINARY_MARK:
            row = row[BINARY_HEAD_BYTES:]
        if row != BINARY_END:
            block += row[BINARY_FRAME_BYTES:]
            block += b"\n"
    return bytes(block)


async def _custom_keys(
    connection: AsyncConnection,
    spec: ListSpec,
    query: ListQuery,
    rows: str,
    parameters: Mapping[str, Any],
) -> list[str]:
    """The keys of the custom fields of these rows, in order. Raises `TooManyColumns`."""
    limited = {**parameters, "keys_max": CUSTOM_COLUMNS_MAX, "sets_max": KEY_SETS_MAX}
    keys: list[str] | None = None
    if spec.base == WHOLE_TABLE and not query.filters and not query.search:
        sets = await connection.execute(KEY_SETS.format(table=spec.table), limited)
        is_complete, known = await sets.fetchone() or (False, [])
        keys = known if is_complete else None
    if keys is None:
        cursor = await connection.execute(CUSTOM_KEYS.format(rows=rows), limited)
        keys = [row[0] for row in await cursor.fetchall()]
    if len(keys) > CUSTOM_COLUMNS_MAX:
        raise TooManyColumns(CUSTOM_COLUMNS_MAX)
    return keys


async def _csv(
    connection: AsyncConnection,
    source: str,
    cells: Mapping[str, str],
    parameters: Mapping[str, Any],
    custom: Mapping[str, str],
) -> Export:
    """Rows as CSV: cells by name as SQL, and custom fields of `t` by name as SQL for the key."""
    # Amounts, which JSON shows as text, are numbers in CSV.
    plain = [sql.removesuffix("::text") for sql in cells.values()]
    named = ", ".join(f"{sql} AS c{n}" for n, sql in enumerate(plain))
    types = await _types(connection, f"SELECT {named} FROM {source} LIMIT 0", parameters)
    written = [_cell(f"c{n}", type_) for n, type_ in enumerate(types)]
    for n, key in enumerate(custom.values()):
        named += f", t.custom_fields ->> {key} AS k{n}"
        written.append(_custom_cell(f"k{n}", key))
    if custom:
        named += ", t.custom_fields"
    # OFFSET 0 keeps PostgreSQL from repeating the whole expression wherever a cell is used.
    query = f"SELECT {', '.join(written)} FROM (SELECT {named} FROM {source} OFFSET 0) AS cells"
    return _copy(Format.CSV, _header([*cells, *custom]), query, parameters)


async def _types(
    connection: AsyncConnection, query: str, parameters: Mapping[str, Any]
) -> list[int]:
    cursor = await connection.execute(query, parameters)
    return [column.type_code for column in cursor.description or ()]


def _cell(cell: str, type_: int) -> str:
    if type_ in TEXT:
        return NEUTRALISED.format(cell=cell)
    if type_ in TIMES:
        return f"to_json({cell}) #>> '{{}}'"
    return f"{cell}::text" if type_ in AS_TEXT else cell


def _custom_cell(text: str, key: str) -> str:
    neutral = NEUTRALISED.format(cell=text)
    return CUSTOM_CELL.format(text=text, key=key, neutralised=neutral)


def _header(names: list[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(neutralised(name) for name in names)
    return line.getvalue().encode()


def _copy(form: Format, head: bytes, query: str, parameters: Mapping[str, Any]) -> Export:
    return Export(form, head, COPY[form].format(query=query), parameters)
