"""The output of COPY arrives whole, and can be left before its end."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from eventlog.connections import Connection
from eventlog.reading.copied import copied_blocks

ROWS = 10_000


def numbers(last: int) -> sql.Composed:
    """COPY of the numbers from 1 to the last one."""
    return sql.SQL("COPY (SELECT generate_series(1, {})) TO STDOUT").format(last)


def test_blocks_have_all_rows(database: Connection) -> None:
    blocks = list(copied_blocks(database, numbers(ROWS), 3_000))
    assert [block.count(b"\n") for block in blocks] == [3_000, 3_000, 3_000, 1_000]
    assert b"".join(blocks).split() == [b"%d" % number for number in range(1, ROWS + 1)]
    assert list(copied_blocks(database, numbers(0), 3_000)) == []


def test_rows_can_be_left(database: Connection) -> None:
    blocks = copied_blocks(database, numbers(ROWS**2), 10)
    assert next(blocks).startswith(b"1\n2\n")
    blocks.close()
    assert database.execute("SELECT 1").fetchone() == (1,)


def test_error_is_raised_at_the_begin_and_within(database: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        next(copied_blocks(database, sql.SQL("COPY absent TO STDOUT").format(), 10))
    fails = sql.SQL("COPY (SELECT 1 / (9 - n) FROM generate_series(1, 20) AS n) TO STDOUT").format()
    with pytest.raises(psycopg.errors.DivisionByZero):
        list(copied_blocks(database, fails, 2))
    assert database.execute("SELECT 1").fetchone() == (1,)
