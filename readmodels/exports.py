"""Exports: all rows of a list, or of the audit trail, as CSV or NDJSON, from one point of the log.

PostgreSQL makes the bytes (COPY … TO STDOUT) and Python passes them on, so memory holds one block
of them however many rows there are. Who reads slowly makes PostgreSQL wait.
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

from domain.shared.cells import neutralised
from domain.shared.fields import CUSTOM
from domain.shared.refusals import Refusal
from eventlog.locks import EXPORT_LOCK
from eventlog.reading.audit import EVENT_OF_ENTRY
from eventlog.reading.counts import has_events
from readmodels.audit import CHOSEN, ITEM, ITEM_SQL, AuditQuery
from readmodels.lists import ListQuery, item_sql, selection
from readmodels.names import CUSTOM_PREFIX
from readmodels.pool import AsyncConnection, ReadPool
from readmodels.spec import ListSpec

BLOCK_BYTES = 65_536
"""Rows are passed on in blocks of about this size."""
CUSTOM_COLUMNS_MAX = 150
"""A CSV file has so many columns of custom fields at the most; with the others it has fewer than
the 200 that an import takes."""
EVEN_WAIT_S = 5.0
"""So long is waited for the read tables to stand at one point of the log."""
EVEN_POLL_S = 0.02

# The delimiter and the quote of the second are control characters, which JSON never holds as they
# are: every row is one line, as it is.
COPY = {
    "csv": "COPY ({query}) TO STDOUT (FORMAT csv)",
    "ndjson": "COPY ({query}) TO STDOUT (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')",
}

# In one snapshot: the positions of the projections, of each of their partitions where they consume
# Kafka; whether anything of this workspace happened between the first and the last of them; and
# whether entities of this workspace are parked.
STANDING = f"""
WITH asked AS MATERIALIZED (
    SELECT position FROM projections WHERE name = ANY(%(names)s)
     UNION ALL
    SELECT position FROM projection_offsets WHERE projection = ANY(%(names)s)
), span AS MATERIALIZED (
    SELECT min(position) AS first, max(position) AS last FROM asked
)
SELECT last,
       NOT {has_events("span.first", "span.last", "%(workspace)s")},
       (SELECT count(*) FROM projection_parked
         WHERE projection = ANY(%(names)s) AND workspace_id = %(workspace)s)
  FROM span
"""

# Asked, and not waited for: where tables are about to be exchanged, there is no export for now.
HOLD_TABLES = f"""
SELECT bool_and(pg_try_advisory_xact_lock_shared({EXPORT_LOCK}, hashtext(name)))
  FROM unnest(%(names)s::text[]) AS name
"""

# As domain.shared.cells.neutralised does it; a test holds the two against each other.
NEUTRALISED = "CASE WHEN {cell} ~ E'^''*[-=+@\\t\\r\\n]' THEN '''' || {cell} ELSE {cell} END"

CUSTOM_KEYS = """
SELECT DISTINCT k FROM ({rows}) AS t, jsonb_object_keys(t.custom_fields) AS k
 ORDER BY k LIMIT %(keys_max)s + 1
"""
CUSTOM_CELL = "CASE jsonb_typeof({cell}) WHEN 'string' THEN {text} ELSE {cell} #>> '{{}}' END"

AUDIT = f"""
read.audit AS a {EVENT_OF_ENTRY}
{CHOSEN}"""
AUDIT_CELLS: Mapping[str, str] = {
    **{name: sql for name, sql in ITEM.items() if name not in ("actor", "changes", "details")},
    "actorType": "e.metadata->'actor'->>'type'",
    "actorId": "e.metadata->'actor'->>'id'",
    "actorName": "e.metadata->'actor'->>'name'",
    "changes": ITEM["changes"],
    "details": ITEM["details"],
}
"""An entry in CSV: its actor as three cells, its changes as JSON in one."""

TEXT = frozenset({25, 1042, 1043})
"""Object ids of the types whose values people write: only these can be taken for formulas."""
TIMES = frozenset({1082, 1114, 1184})
"""Dates and times, to be written as JSON has them."""
AS_TEXT = frozenset({16, 114, 3802})
"""Booleans and JSON: by ::text they are `true` and not `t`."""


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    NDJSON = "ndjson"


@dataclass
class NoConsistentSnapshot(Refusal):
    """The lists do not stand at one point of the log just now."""


@dataclass
class EntitiesParked(Refusal):
    """Some of what would be exported cannot be shown for now: entities are parked."""

    parked: int


@dataclass
class TooManyColumns(Refusal):
    """There are more custom fields than a CSV file can have columns."""

    limit: int


@dataclass(frozen=True)
class Export:
    """What is to be sent: the first line, and the statement that makes the others."""

    head: bytes
    statement: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A transaction that sees one workspace as of one position of the log."""

    connection: AsyncConnection
    position: int


@asynccontextmanager
async def one_point(
    pool: ReadPool, workspace_id: UUID, projections: Collection[str]
) -> AsyncIterator[Point]:
    """A snapshot in which the tables of all these projections stand at one point of the log.

    They mostly do, for projectors move them together; and they are not exchanged (by a rebuild)
    before the transaction ends. Raises `NoConsistentSnapshot` after `EVEN_WAIT_S` seconds
    without success, `EntitiesParked`, and what the pool raises.
    """
    deadline_s = time.monotonic() + EVEN_WAIT_S
    while True:
        async with pool.workspace(workspace_id) as connection:
            position = await _standing(connection, workspace_id, projections)
            if position is not None:
                yield Point(connection, position)
                return
        if time.monotonic() > deadline_s:
            raise NoConsistentSnapshot
        await asyncio.sleep(EVEN_POLL_S)


async def _standing(
    connection: AsyncConnection, workspace_id: UUID, projections: Collection[str]
) -> int | None:
    """The position as of which all of them tell of this workspace; None where there is none."""
    parameters = {"names": sorted(projections), "workspace": workspace_id}
    held = await (await connection.execute(HOLD_TABLES, parameters)).fetchone()
    row = await (await connection.execute(STANDING, parameters)).fetchone()
    assert held is not None
    assert row is not None
    position, is_even, parked = row
    if parked:
        raise EntitiesParked(parked)
    return int(position) if held[0] and is_even else None


async def list_export(
    connection: AsyncConnection, spec: ListSpec, query: ListQuery, form: Format
) -> Export:
    """All items of a list: as NDJSON as the list shows them, as CSV a column for each field.

    In CSV there are no contacts, and `customFields.<key>` is a column for each key that occurs.
    Raises `TooManyColumns`.
    """
    rows, order, parameters = selection(spec, query)
    # What an item shows is made after the rows are sorted: OFFSET 0 keeps items from being sorted.
    source = f"({rows} ORDER BY {order} OFFSET 0) AS t"
    if form is Format.NDJSON:
        item = item_sql(spec, with_contacts=spec.with_contacts and query.include_contacts)
        return _copy(form, b"", f"SELECT {item} FROM {source}", parameters)
    cells = {name: sql for name, sql in spec.items.items() if name != CUSTOM}
    keys = await _custom_keys(connection, rows, parameters)
    custom = {f"{CUSTOM_PREFIX}{key}": f"%(custom{n})s::text" for n, key in enumerate(keys)}
    parameters |= {f"custom{n}": key for n, key in enumerate(keys)}
    return await _table(connection, source, cells, parameters, custom)


async def audit_export(
    connection: AsyncConnection, query: AuditQuery, form: Format, *, descending: bool = True
) -> Export:
    """All entries of the audit trail that the filters leave, in the order of their positions."""
    parameters = replace(query, cursor=None).parameters()
    source = f"{AUDIT} ORDER BY a.position {'DESC' if descending else 'ASC'}"
    if form is Format.NDJSON:
        return _copy(form, b"", f"SELECT {ITEM_SQL} FROM {source}", parameters)
    return await _table(connection, source, AUDIT_CELLS, parameters, {})


async def blocks(connection: AsyncConnection, export: Export) -> AsyncGenerator[bytes, None]:
    """The export in blocks of about `BLOCK_BYTES`. Whoever stops early closes the generator."""
    block = bytearray(export.head)
    async with (
        connection.cursor() as cursor,
        cursor.copy(export.statement, export.parameters) as copy,
    ):
        async for row in copy:
            block += row
            if len(block) >= BLOCK_BYTES:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


async def _custom_keys(
    connection: AsyncConnection, rows: str, parameters: Mapping[str, Any]
) -> list[str]:
    asked = {**parameters, "keys_max": CUSTOM_COLUMNS_MAX}
    cursor = await connection.execute(CUSTOM_KEYS.format(rows=rows), asked)
    keys = [row[0] for row in await cursor.fetchall()]
    if len(keys) > CUSTOM_COLUMNS_MAX:
        raise TooManyColumns(CUSTOM_COLUMNS_MAX)
    return keys


async def _table(
    connection: AsyncConnection,
    source: str,
    cells: Mapping[str, str],
    parameters: Mapping[str, Any],
    custom: Mapping[str, str],
) -> Export:
    """Rows as CSV: these cells, by name, and of the row `t` these custom fields, by key."""
    # An amount that the wire has as text is a number here.
    plain = [sql.removesuffix("::text") for sql in cells.values()]
    named = ", ".join(f"{sql} AS c{n}" for n, sql in enumerate(plain))
    types = await _types(connection, f"SELECT {named} FROM {source} LIMIT 0", parameters)
    written = [_cell(f"c{n}", type_) for n, type_ in enumerate(types)]
    for n, key in enumerate(custom.values()):
        named += f", t.custom_fields -> {key} AS k{n}"
        written.append(_custom_cell(f"k{n}"))
    # OFFSET 0, lest each mention of a cell be the whole expression once more.
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


def _custom_cell(cell: str) -> str:
    text = NEUTRALISED.format(cell=f"({cell} #>> '{{}}')")
    return CUSTOM_CELL.format(cell=cell, text=text)


def _header(names: list[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(neutralised(name) for name in names)
    return line.getvalue().encode()


def _copy(form: Format, head: bytes, query: str, parameters: Mapping[str, Any]) -> Export:
    return Export(head, COPY[form].format(query=query), parameters)
