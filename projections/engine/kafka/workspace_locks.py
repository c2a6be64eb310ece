"""Consumers of several partitions take turns where they may meet in a row.

A row belongs to one entity, and its events lie in the partition of the account that it hangs on.
When that is merged into another, they go on in another partition: two consumers may have the same
row at hand. The older change then does nothing (`apply.py`), and to tell which one that is, each
must see what the other has done, counters included.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from eventlog.connections import Connection
from eventlog.locks import WORKSPACE_LOCK
from eventlog.reading import RecordedEvent

TURNS = 64
"""So many locks at the most for one batch; workspaces that share one wait for each other."""

TAKE_TURNS = "SELECT pg_advisory_xact_lock(%s, n) FROM unnest(%s::integer[]) AS n"


def lock_workspaces(connection: Connection, events: Iterable[RecordedEvent]) -> None:
    """Until the end of the transaction nobody else applies events of these workspaces.

    The first statement of the transaction: whoever waits here has nothing that others wait for.
    """
    workspaces = {event.workspace_id for event in events}
    turns = sorted({zlib.crc32(each.encode()) % TURNS for each in workspaces})
    connection.execute(TAKE_TURNS, (WORKSPACE_LOCK, turns), prepare=True)
