"""Existing entities by name and by key, for matching them with rows of an import."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

from psycopg import sql
from pydantic.alias_generators import to_snake

from eventlog.connections import SET_WORKSPACE, Connection
from readmodels.lists import LISTS

FETCH_ROWS = 5_000
CUSTOM_PREFIX = "customFields."

SELECT = "SELECT {columns} FROM {table} AS t WHERE t.workspace_id = %s AND {base}"
SELECT_CONTACTS = """
SELECT account_id, id, name, email FROM read.contacts
 WHERE workspace_id = %s AND account_id = ANY(%s::uuid[]) ORDER BY account_id, created_at, id
"""


def load_names(
    connection: Connection, workspace_id: UUID, plural: str, name: str
) -> Iterator[tuple[str, UUID]]:
    """Load name (the field with this wire name) and id of every entity in a list."""
    columns = [_column(name), sql.SQL("t.id")]
    yield from _rows(connection, workspace_id, plural, columns)


def load_keys(
    connection: Connection, workspace_id: UUID, plural: str, fields: Sequence[str]
) -> Iterator[tuple[UUID, tuple[str | None, ...]]]:
    """Load id and these fields, as text, of every entity in a list.

    A custom field is named `customFields.<key>`.
    """
    columns = [sql.SQL("t.id"), *(_column(name) for name in fields)]
    for entity_id, *parts in _rows(connection, workspace_id, plural, columns):
        yield entity_id, tuple(parts)


def load_contacts(
    connection: Connection, workspace_id: UUID, account_ids: Collection[UUID]
) -> Iterator[tuple[UUID, UUID, dict[str, str]]]:
    """Load account, id, and name and e-mail of each account's contacts, oldest first.

    Call it in a transaction of the workspace.
    """
    rows = connection.execute(SELECT_CONTACTS, (workspace_id, list(account_ids)))
    for account_id, contact_id, name, email in rows:
        yield account_id, contact_id, {"name": name} | ({"email": email} if email else {})


def _rows(
    connection: Connection, workspace_id: UUID, plural: str, columns: list[sql.Composable]
) -> Iterator[Any]:
    """Read rows of a list by a server-side cursor, so that memory holds `FETCH_ROWS` of them."""
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
    return sql.SQL("{}::text").format(sql.Identifier("t", to_snake(name)))
