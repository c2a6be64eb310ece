"""Locks that serialise consumers of different partitions on the workspaces they share.

A row belongs to one entity, whose events are in the partition of its account. When the account is
merged into another, later events are in another partition, so two consumers may change the same row
at once. The older change then has no effect (`live/statements.py`), but to find out which is older,
each consumer must see what the other has committed, counters included.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from eventlog.connections import Connection
from eventlog.locks import WORKSPACE_LOCK
from eventlog.reading import RecordedEvent

LOCKS_MAX = 64
"""Maximum number of locks for one batch. Workspaces that share a lock wait for each other."""

LOCK_WORKSPACES = "SELECT pg_advisory_xact_lock(%s, n) FROM unnest(%s::integer[]) AS n"


def lock_workspaces(connection: Connection, events: Iterable[RecordedEvent]) -> None:
    """Keep other consumers from applying events of these workspaces in this transaction.

    It must be the transaction's first statement, so that a waiting consumer holds no other lock.
    """
    workspaces = {event.workspace_id for event in events}
    numbers = sorted({zlib.crc32(each.encode()) % LOCKS_MAX for each in workspaces})
    connection.execute(LOCK_WORKSPACES, (WORKSPACE_LOCK, numbers), prepare=True)
