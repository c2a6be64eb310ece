"""Accounts and the entities that belong to them: locks, and the children of an account."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from eventlog.connections import Connection, array
from eventlog.locks import ACCOUNT_LOCK
from eventlog.reading.entities import ABSORBED

LOCK_ACCOUNTS = f"""
SELECT CASE WHEN is_exclusive THEN pg_advisory_xact_lock({ACCOUNT_LOCK}, hashtext(id))
            ELSE pg_advisory_xact_lock_shared({ACCOUNT_LOCK}, hashtext(id)) END
  FROM unnest(%s::text[], %s::boolean[]) AS wanted(id, is_exclusive)
"""
SELECT_CHILDREN = f"""
WITH RECURSIVE {ABSORBED}
SELECT e.stream_id, e.stream_version, e.topic, e.data, e.occurred_at, e.account_id
  FROM absorbed AS o
  JOIN events AS c ON c.account_id = o.id AND c.stream_version = 1
  JOIN events AS e ON e.stream_id = c.stream_id
 WHERE c.workspace_id = %(workspace)s AND e.workspace_id = %(workspace)s
 ORDER BY c.position, e.stream_version
"""
"""The events of all entities that were created on these accounts, or on one merged into them."""


def lock_accounts(
    connection: Connection, *, shared: Collection[UUID] = (), exclusive: Collection[UUID] = ()
) -> None:
    """Lock accounts until the transaction ends, in the order of their ids to avoid deadlocks.

    An account in both collections is locked exclusively.
    """
    connection.execute(LOCK_ACCOUNTS, accounts_to_lock(shared=shared, exclusive=exclusive))


def accounts_to_lock(
    *, shared: Collection[UUID] = (), exclusive: Collection[UUID] = ()
) -> tuple[str, str]:
    """The parameters of `LOCK_ACCOUNTS`."""
    ids = sorted({*shared, *exclusive})
    return array(map(str, ids)), array(each in exclusive for each in ids)
