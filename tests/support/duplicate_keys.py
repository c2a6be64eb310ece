"""The keys by which duplicates are found, computed from the lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from uuid import UUID

from eventlog.connections import Connection
from projections.duplicates import company_key, email_key, phone_key

KEYS: dict[str, tuple[str, str, Callable[[str], str | None]]] = {
    "email": ("contacts", "email", email_key),
    "phone": ("contacts", "phone", phone_key),
    "company": ("accounts", "company", company_key),
}
"""By reason: read table, column, and the function that returns the key."""


def expected_keys(database: Connection) -> dict[str, dict[UUID, tuple[UUID, str]]]:
    """Return by reason the workspace and key of each entity id, computed from the lists."""
    found: dict[str, dict[UUID, tuple[UUID, str]]] = {reason: {} for reason in KEYS}
    for reason, (table, column, normalise) in KEYS.items():
        statement = f"SELECT id, workspace_id, {column} FROM read.{table}"
        for entity_id, workspace_id, value in database.execute(statement.encode()).fetchall():
            key = normalise(value) if value else None
            if key:
                found[reason][entity_id] = workspace_id, key
    return found


def assert_keys_match_lists(database: Connection) -> None:
    """Assert that the tables of keys and of counts hold what the lists imply."""
    for reason, expected in expected_keys(database).items():
        statement = f"SELECT id, workspace_id, key FROM read.{reason}_keys"
        rows = database.execute(statement.encode()).fetchall()
        assert {each[0]: each[1:] for each in rows} == expected
        statement = f"SELECT workspace_id, key, n FROM read.{reason}_counts WHERE n <> 0"
        counted = database.execute(statement.encode()).fetchall()
        assert {each[:2]: each[2] for each in counted} == Counter(expected.values())
