"""Writing rows into tables by COPY."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from eventlog.connections import Connection
from projections.changes import Counts, RowKey, Table
from projections.engine.rows.statements import SELECT_COLUMNS

COPY_BLOCK_ROWS = 1_000
COPY_CHARS = 4_000_000
"""Length of the text that one COPY writes, about."""
NULL = "\x01"
"""Stands for null in the copied text, because no field may hold a control character."""

FILL_COUNTS = """
INSERT INTO {counts} ({by}, n{sums})
SELECT {by}, count(*){summed} FROM {table} GROUP BY {by}
"""


class TableCopy:
    """COPY of rows into a table that has no rows with their keys, many in each statement."""

    def __init__(self, connection: Connection, schema: str, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._name = f"{schema}.{table.name}"
        types = connection.execute(SELECT_COLUMNS, (self._name,)).fetchall()
        self.columns = [name for name, _ in types if name not in {"workspace_id", table.key}]
        """The columns of the table, beside the workspace and the key."""
        self._blocks: list[str] = []
        self._columns: Sequence[str] = ()
        self._chars = 0

    def add(self, columns: Sequence[str], rows: Iterable[tuple[RowKey, Sequence[Any]]]) -> None:
        """Add rows, as values of these columns; the others are null."""
        if columns != self._columns:
            self.write()
            self._columns = columns
        left = iter(rows)
        while block := _block(left, len(columns)):
            self._blocks.append(block)
            self._chars += len(block)
            if self._chars >= COPY_CHARS:
                self.write()

    def write(self) -> None:
        """Write the rows that were added since the last statement."""
        if not self._blocks:
            return
        names = ", ".join(["workspace_id", self._table.key, *self._columns])
        statement = f"COPY {self._name} ({names}) FROM STDIN WITH (NULL '{NULL}')"
        with self._connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for block in self._blocks:
                copy.write(block)
        self._blocks, self._chars = [], 0


def _block(rows: Iterator[tuple[RowKey, Sequence[Any]]], columns: int) -> str:
    """The next rows as COPY's text; empty if there are no more."""
    taken = list(islice(rows, COPY_BLOCK_ROWS))
    block = "".join(["\t".join([*key, *_texts(row)]) + "\n" for key, row in taken])
    # Most text needs no escapes, so a thousand rows are checked at once.
    if (
        "\\" in block
        or "\r" in block
        or block.count("\n") != len(taken)
        or block.count("\t") != (columns + 1) * len(taken)
    ):
        block = "".join(
            ["\t".join([*key, *map(_escaped, _texts(row))]) + "\n" for key, row in taken]
        )
    return block


def _texts(values: Iterable[Any]) -> list[str]:
    """Values as COPY's text, without escapes. Common types come first and need no call."""
    return [
        value
        if value.__class__ is str
        else NULL
        if value is None
        else str(value)
        if value.__class__ is int
        else _text(value)
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
    """Fill a counts table of a table that was copied in."""
    connection.execute(
        FILL_COUNTS.format(
            counts=f"{schema}.{counts.table}",
            table=f"{schema}.{table.name}",
            by=", ".join(("workspace_id", *counts.by)),
            sums="".join(f", {column}" for column in counts.sums),
            summed="".join(f", coalesce(sum({column}), 0)" for column in counts.sums),
        ).encode()
    )
