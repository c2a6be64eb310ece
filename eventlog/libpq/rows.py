"""Statements that are asked again and again: a page of a list, the events of a batch of commands.

psycopg's cursor looks a statement up by its text and types, adapts each parameter and each value,
and takes locks: 65 µs of the API's CPU. Such a statement is prepared once for each connection, its
parameters are text, and its values stay as PostgreSQL sent them: 30 µs (docs/adr/0041). Waiting,
cancelling and errors are psycopg's.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from eventlog.connections import AsyncConnection

PREPARED_MAX = 100
"""Maximum number of statements that a connection keeps prepared, as in psycopg."""
PARAMETER = re.compile(r"%\((\w+)\)s|%s|%%")
SUCCESSES = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

Values = Sequence[bytes | None]

_numbers = itertools.count(1)
_prepared: WeakKeyDictionary[AsyncConnection, OrderedDict[Statement, bytes]] = WeakKeyDictionary()
"""By connection: the names of its statements; the one that was used last stands at the end."""


class Statement:
    """A statement with parameters as in psycopg, all of them `%(name)s` or all of them `%s`."""

    def __init__(self, text: str) -> None:
        numbers: dict[str, int] = {}

        def numbered(found: re.Match[str]) -> str:
            if found[0] == "%%":
                return "%"
            name = found[1] or f"#{len(numbers)}"
            return f"${numbers.setdefault(name, len(numbers) + 1)}"

        self.text = PARAMETER.sub(numbered, text)
        """With parameters by number, as PostgreSQL takes it."""
        self._parameters = tuple(numbers)

    async def fetch_row(
        self, connection: AsyncConnection, parameters: Mapping[str, object]
    ) -> list[bytes | None] | None:
        """Return the values of the only row as text, None if there is none.

        Raises `psycopg.Error`.
        """
        rows = await self.fetch(connection, [parameters[name] for name in self._parameters])
        return rows[0] if rows else None

    async def fetch(
        self, connection: AsyncConnection, values: Sequence[object]
    ) -> list[list[bytes | None]]:
        """Return the rows, with their values as text. Raises `psycopg.Error`.

        values: one for each parameter, in their order.
        """
        texts = list(map(_as_text, values))
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            # A transaction would not survive that the name is unknown, which is put right below.
            result = await _run(connection, _unprepared(connection.pgconn, self.text, texts))
        else:
            result = await self._run_prepared(connection, texts)
        columns = range(result.nfields)
        return [
            [result.get_value(row, column) for column in columns] for row in range(result.ntuples)
        ]

    async def _run_prepared(self, connection: AsyncConnection, values: Values) -> PGresult:
        prepared = _prepared.setdefault(connection, OrderedDict())
        while True:
            try:
                name = prepared.get(self) or await self._prepare(connection, prepared)
                prepared.move_to_end(self)
                return await _run(connection, _query(connection.pgconn, name, values))
            except InvalidSqlStatementName:
                # psycopg deallocates all statements of a connection after a rollback.
                if not prepared:
                    raise
                prepared.clear()

    async def _prepare(
        self, connection: AsyncConnection, prepared: OrderedDict[Statement, bytes]
    ) -> bytes:
        """Prepare the statement in this connection, in place of the one unused for longest."""
        if len(prepared) >= PREPARED_MAX:
            _, oldest = prepared.popitem(last=False)
            await connection.execute(b"DEALLOCATE " + oldest)
        # A new name each time: if this is cancelled, the server may know the name or not.
        name = f"annals_{next(_numbers)}".encode()
        await _run(connection, _preparation(connection.pgconn, name, self.text))
        prepared[self] = name
        return name


async def _run(connection: AsyncConnection, work: PQGen[list[PGresult]]) -> PGresult:
    result = (await connection.wait(work))[-1]
    if result.status not in SUCCESSES:
        raise error_from_result(result, encoding=connection.info.encoding)
    return result


def _query(pgconn: PGconn, name: bytes, values: Values) -> PQGen[list[PGresult]]:
    pgconn.send_query_prepared(name, values)
    results: list[PGresult] = yield from execute(pgconn)
    return results


def _unprepared(pgconn: PGconn, text: str, values: Values) -> PQGen[list[PGresult]]:
    pgconn.send_query_params(text.encode(), values)
    results: list[PGresult] = yield from execute(pgconn)
    return results


def _preparation(pgconn: PGconn, name: bytes, text: str) -> PQGen[list[PGresult]]:
    pgconn.send_prepare(name, text.encode())
    results: list[PGresult] = yield from execute(pgconn)
    return results


def _as_text(value: object) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, bytes) else str(value).encode()
    if b"\0" in text:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return text
