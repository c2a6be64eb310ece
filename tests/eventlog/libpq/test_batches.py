"""Statements sent together are one transaction, whatever ends the batch."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from eventlog.connections import Connection, follow_connection
from eventlog.hints import APPENDED, wait_for_hint
from eventlog.libpq.batches import BatchStatement, execute_together
from tests.support.databases import Urls

INSERT = b"INSERT INTO batch (number, text) VALUES (%s, %s)"
LARGE = "é" * 5_000_000
HINT_WAIT_S = 5.0


class Unsendable(int):
    """A value that raises an error when it is sent."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.fixture
def connection(urls: Urls) -> Iterator[Connection]:
    """A connection with an empty table `batch`."""
    with follow_connection(urls.owner, application_name="test") as connection:
        connection.execute("CREATE TABLE batch (number integer PRIMARY KEY, text text)")
        yield connection


def numbers(connection: Connection) -> list[int]:
    """The rows that were inserted."""
    return [row[0] for row in connection.execute("SELECT number FROM batch ORDER BY number")]


def insert(*values: int) -> list[BatchStatement]:
    """The statements that insert these numbers."""
    return [(INSERT, (value, None)) for value in values]


def test_statements_are_executed_in_order_and_return_rows(connection: Connection) -> None:
    select = b"SELECT number, text FROM batch WHERE number <= %s ORDER BY number"
    statements = [*insert(1), (select, (9,)), *insert(2), (select, (9,))]
    for _ in range(2):
        results = execute_together(connection, statements)
        assert [result.ntuples for result in results] == [0, 1, 0, 2]
        assert results[3].get_value(1, 0) == b"2"
        assert results[3].get_value(1, 1) is None
        connection.execute("TRUNCATE batch")


def test_nothing_is_written_if_a_statement_fails(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute_together(connection, insert(1, 2, 2, 3))
    assert numbers(connection) == []
    execute_together(connection, insert(1, 2))
    assert numbers(connection) == [1, 2]


def test_error_of_a_new_statement_is_raised(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        execute_together(connection, [*insert(1), (b"SELECT FROM absent", ()), *insert(2)])
    assert numbers(connection) == []
    execute_together(connection, insert(2))
    assert numbers(connection) == [2]


def test_statements_outlive_a_rollback(connection: Connection) -> None:
    execute_together(connection, insert(1))
    with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
        connection.execute("SELECT 1 / 0")
    execute_together(connection, insert(2, 3))
    assert numbers(connection) == [1, 2, 3]


def test_batch_is_part_of_a_transaction(connection: Connection) -> None:
    execute_together(connection, insert(1))
    with connection.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            execute_together(connection, insert(2, 1))
        execute_together(connection, insert(3))
        assert numbers(connection) == [1, 3]
    assert numbers(connection) == [1]


def test_large_values_are_sent_while_large_rows_arrive(connection: Connection) -> None:
    echo: BatchStatement = (b"SELECT %s::text", (LARGE,))
    results = execute_together(connection, [echo] * 4)
    assert [result.get_value(0, 0) for result in results] == [LARGE.encode()] * 4


def test_interrupted_batch_writes_nothing(connection: Connection, urls: Urls) -> None:
    large: BatchStatement = (INSERT, (2, LARGE))  # is sent before the batch ends
    with pytest.raises(KeyboardInterrupt):
        execute_together(connection, [*insert(1), large, (INSERT, (Unsendable(), None))])
    assert connection.closed
    with psycopg.connect(urls.owner, autocommit=True) as other:
        assert numbers(other) == []


def test_lost_connection_is_an_operational_error(connection: Connection) -> None:
    end = b"SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(psycopg.OperationalError):
        execute_together(connection, [*insert(1), (end, ()), *insert(2)])
    assert connection.closed


def test_notification_during_a_batch_is_kept(connection: Connection) -> None:
    connection.execute(f"LISTEN {APPENDED}")
    execute_together(connection, [(b"SELECT pg_notify(%s, '')", (APPENDED,))])
    execute_together(connection, insert(1))
    assert wait_for_hint(connection, HINT_WAIT_S)
