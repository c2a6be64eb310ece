"""Writing rows into tables by COPY."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from eventlog.connections import Connection
from projections.changes import Counts, Row, RowKey, Table
from projections.engine.rows.statements import SELECT_COLUMNS

COPY_BLOCK_ROWS = 1_000
NULL = "\x01"
"""Stands for null in the copied text, because no field may hold a control character."""

FILL_COUNTS = """
INSERT INTO {counts} (workspace_id, {by}, n{sums})
SELECT workspace_id, {by}, count(*){summed} FROM {table} GROUP BY workspace_id, {by}
"""


def copy_rows(connection: Connection, schema: str, table: Table, rows: dict[RowKey, Row]) -> None:
    """COPY rows into a table that has no rows with these keys."""
    if not rows:
        return
    types = connection.execute(SELECT_COLUMNS, (f"{schema}.{table.name}",)).fetchall()
    names = [name for name, _ in types if name not in {"workspace_id", table.key}]
    columns = ", ".join(["workspace_id", table.key, *names])
    statement = f"COPY {schema}.{table.name} ({columns}) FROM STDIN WITH (NULL '{NULL}')"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for block in _blocks(rows, names):
            copy.write(block)


def _blocks(rows: dict[RowKey, Row], names: list[str]) -> Iterator[str]:
    left = iter(rows.items())
    tabs = len(names) + 1
    while taken := list(islice(left, COPY_BLOCK_ROWS)):
        block = "".join(
            "\t".join([*key, *_texts(map(row.get, names))]) + "\n" for key, row in taken
        )
        # Most text needs no escapes, so a thousand rows are checked at once.
        if (
            "\\" in block
            or "\r" in block
            or block.count("\n") != len(taken)
            or block.count("\t") != tabs * len(taken)
        ):
            block = "".join(
                "\t".join([*key, *map(_escaped, _texts(map(row.get, names)))]) + "\n"
                for key, row in taken
            )
        yield block


def _texts(values: Iterable[Any]) -> list[str]:
    """Values as COPY's text, without escapes. Common types come first and need no call."""
    return [
        value if value.__class__ is str else NULL if value is None else _text(value)
        for value in values
    ]


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    return str(value)


def _escaped(text: str) -> str:
    """Escape the characters that would end a line or a column, as COPY's text format does."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def fill_counts(connection: Connection, schema: str, table: Table, counts: Counts) -> None:
    """Fill the counts table of a table that was copied in."""
    connection.execute(
        FILL_COUNTS.format(
            counts=f"{schema}.{counts.table}",
            table=f"{schema}.{table.name}",
            by=", ".join(counts.by),
            sums="".join(f", {column}" for column in counts.sums),
            summed="".join(f", coalesce(sum({column}), 0)" for column in counts.sums),
        ).encode()
    )
