"""What there is by name and by key, for whoever matches rows from outside: imports first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

from psycopg import sql

from eventlog.connections import Connection
from readmodels.lists import LISTS

FETCH_ROWS = 5_000
CUSTOM_PREFIX = "customFields."

SELECT = "SELECT {columns} FROM {table} AS t WHERE t.workspace_id = %s AND {base}"
SELECT_CONTACTS = """
SELECT account_id, id, name, email FROM read.contacts
 WHERE workspace_id = %s AND account_id = ANY(%s::uuid[]) ORDER BY account_id, created_at, id
"""
SET_WORKSPACE = "SELECT set_config('annals.workspace_id', %s, true)"


def names(
    connection: Connection, workspace_id: UUID, plural: str, name: str
) -> Iterator[tuple[str, UUID]]:
    """Name (the field of this wire name) and id of everything in a list."""
    columns = [_column(name), sql.SQL("t.id")]
    yield from _rows(connection, workspace_id, plural, columns)


def keys(
    connection: Connection, workspace_id: UUID, plural: str, fields: Sequence[str]
) -> Iterator[tuple[UUID, tuple[str | None, ...]]]:
    """Id and these fields of everything in a list, as text; custom ones by `customFields.<key>`."""
    columns = [sql.SQL("t.id"), *(_column(name) for name in fields)]
    for entity_id, *parts in _rows(connection, workspace_id, plural, columns):
        yield entity_id, tuple(parts)


def contacts_of(
    connection: Connection, workspace_id: UUID, account_ids: Collection[UUID]
) -> Iterator[tuple[UUID, UUID, dict[str, str]]]:
    """Account, id, and name and e-mail of the contacts of these accounts, the oldest first."""
    rows = connection.execute(SELECT_CONTACTS, (workspace_id, list(account_ids)))
    for account_id, contact_id, name, email in rows:
        yield account_id, contact_id, {"name": name} | ({"email": email} if email else {})


def _rows(
    connection: Connection, workspace_id: UUID, plural: str, columns: list[sql.Composable]
) -> Iterator[Any]:
    """Rows of a list by a server-side cursor, so that memory holds a few of them at a time."""
    spec = LISTS[plural]
    query = sql.SQL(SELECT).format(
        columns=sql.SQL(", ").join(columns),
        table=sql.Identifier(*spec.table.split(".")),
        base=sql.SQL(spec.base),
    )
    with connection.transaction():
        connection.execute(SET_WORKSPACE, (str(workspace_id),))
        with connection.cursor(name="names") as cursor:
            cursor.itersize = FETCH_ROWS
            yield from cursor.execute(query, (workspace_id,))


def _column(name: str) -> sql.Composable:
    if name.startswith(CUSTOM_PREFIX):
        return sql.SQL("t.custom_fields ->> {}").format(sql.Literal(name[len(CUSTOM_PREFIX) :]))
    return sql.SQL("{}::text").format(sql.Identifier("t", _snake(name)))


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
