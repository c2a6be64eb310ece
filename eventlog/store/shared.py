"""Transactions of several commands: their streams are read at once, their events appended at once.

They run in an event loop, on one connection, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import orjson

from domain.shared.entity import Entity
from eventlog.connections import AsyncConnection, array, shared_write_pool
from eventlog.libpq.rows import Statement
from eventlog.reading.positions import SELECT_TAKEN
from eventlog.scope import Scope
from eventlog.store.accounts import LOCK_ACCOUNTS, accounts_to_lock
from eventlog.store.log import EventLog, follows
from eventlog.store.recorder import APPEND_ONE, batch_row, single_event

READ_STREAMS = Statement("""
SELECT number, stream_version, topic, data, occurred_at, account_id
  FROM read_streams(%s::uuid[], %s::uuid[], %s::integer[], %s::integer)
""")
APPEND_SINGLE = Statement(APPEND_ONE)
APPEND_TOGETHER = Statement("SELECT append_events_together(%s::uuid[], %s::json)")
TAKEN = Statement(SELECT_TAKEN)
STREAM_EVENTS_MAX = 1_000
"""Longer streams are not folded in the event loop, which would stand still for a tenth of a
second."""

StreamRow = tuple[UUID, int, str, bytes, datetime, UUID | None]
Event = tuple[Scope, Any, Mapping[str, str]]
"""A scope, an event of the domain, and metadata that is added to the scope's."""


class CannotShare(Exception):
    """The command has to be run by itself, in a transaction of its own. Nothing was recorded."""


class SharedTransactions:
    """Opens the transactions. Used in one event loop."""

    def __init__(self, log: EventLog, url: str) -> None:
        self._log = log
        self._pool = shared_write_pool(url)

    async def open(self) -> None:
        """Open the connection in the background."""
        await self._pool.open()

    async def close(self) -> None:
        """Close the connection."""
        await self._pool.close()

    def statistics(self) -> dict[str, int]:
        """Size, use and queue of the pool, under psycopg's names."""
        return self._pool.get_stats()

    @asynccontextmanager
    async def begin(self, *, in_transaction: bool) -> AsyncIterator[SharedTransaction]:
        """Open a transaction, which commits at the end of the block.

        in_transaction: False if the caller reads and appends by one call each. Then each call
        commits by itself, which saves two round trips. Raises the errors of psycopg and its pool.
        """
        async with self._pool.connection() as connection:
            transaction = SharedTransaction(self._log, connection)
            if in_transaction:
                async with connection.transaction():
                    yield transaction
            else:
                yield transaction
        if transaction.has_appended:
            self._log.after_append()


@dataclass
class SharedTransaction:
    """What the commands of one transaction read and append."""

    _log: EventLog
    connection: AsyncConnection
    has_appended: bool = False
    _streams: dict[tuple[UUID, UUID], _Stream] = field(default_factory=dict)

    async def lock_accounts(self, shared: Collection[UUID]) -> None:
        """Lock accounts until the transaction ends, so that others do not delete or merge them."""
        await self.connection.execute(LOCK_ACCOUNTS, accounts_to_lock(shared=shared))

    async def read(self, streams: Collection[tuple[UUID, UUID]]) -> None:
        """Read these streams, by workspace and id, in one round trip."""
        wanted = sorted(streams)
        kept = [self._log.cache.find(*each) for each in wanted]
        rows = await READ_STREAMS.fetch(
            self.connection,
            (
                array(str(workspace_id) for workspace_id, _ in wanted),
                array(str(stream_id) for _, stream_id in wanted),
                array(state.version if state else 1 for state in kept),
                STREAM_EVENTS_MAX,
            ),
        )
        found: list[list[StreamRow]] = [[] for _ in wanted]
        for row in rows:
            number = _number(row) - 1
            found[number].append(_stream_row(wanted[number][1], row))
        for key, events, state in zip(wanted, found, kept, strict=True):
            self._streams[key] = _Stream(events, state)

    def entity(self, workspace_id: UUID, entity_id: UUID) -> Entity | None:
        """A new instance of an entity as it was read, None if there is none.

        Raises `CannotShare`, and `LookupError` if its stream was not read.
        """
        stream = self._streams[workspace_id, entity_id]
        rows, kept = stream.rows, stream.kept
        if len(rows) >= STREAM_EVENTS_MAX or (kept is not None and not follows(rows, kept)):
            raise CannotShare
        entity = self._log.folded(
            workspace_id, entity_id, rows, kept, is_committed=not self.has_appended
        )
        return entity if isinstance(entity, Entity) else None

    async def append(self, events: Sequence[Event]) -> list[int]:
        """Append events in one round trip; return the position of each.

        Raises `psycopg.errors.UniqueViolation` after a concurrent write to one of the streams.
        """
        self.has_appended = True
        started = time.perf_counter()
        stored = self._log.mapper.to_stored_event
        if len(events) == 1:
            ((scope, event, extra),) = events
            metadata = {**scope.metadata(), **extra}
            parameters = single_event(scope.workspace_id, stored(event), metadata)
            rows = await APPEND_SINGLE.fetch(self.connection, parameters)
            positions = [_number(rows[0])]
        else:
            batches: dict[UUID, list[dict[str, Any]]] = {}
            numbers: dict[UUID, list[int]] = {}
            for number, (scope, event, extra) in enumerate(events):
                row = {**batch_row(stored(event)), "meta": {**scope.metadata(), **extra}}
                batches.setdefault(scope.workspace_id, []).append(row)
                numbers.setdefault(scope.workspace_id, []).append(number)
            rows = await APPEND_TOGETHER.fetch(
                self.connection, (array(map(str, batches)), orjson.dumps(list(batches.values())))
            )
            order = [number for each in numbers.values() for number in each]
            by_number = dict(zip(order, map(_number, rows), strict=True))
            positions = [by_number[number] for number in range(len(events))]
        self._log.observe_append(time.perf_counter() - started)
        return positions

    async def taken_position(self) -> int:
        """The last position that was assigned: every event recorded so far is at or below it."""
        return _number((await TAKEN.fetch(self.connection, ()))[0])


@dataclass(frozen=True)
class _Stream:
    """What was read of a stream: the rows, and the state to which the first row belongs."""

    rows: list[StreamRow]
    kept: Any


def _stream_row(stream_id: UUID, row: Sequence[bytes | None]) -> StreamRow:
    """A row of `READ_STREAMS`, whose values are text, as `EventLog.evolved` takes it."""
    version, topic, data, occurred_at = cast("Sequence[bytes]", row[1:5])
    account_id = row[5]
    return (
        stream_id,
        int(version),
        topic.decode(),
        data,
        datetime.fromisoformat(occurred_at.decode()),
        UUID(account_id.decode()) if account_id else None,
    )


def _number(row: Sequence[bytes | None]) -> int:
    return int(row[0] or 0)
