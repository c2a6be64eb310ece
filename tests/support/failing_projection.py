"""A projection that cannot handle one account's events, and a look at the rows of the others."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.connections import Connection
from eventlog.reading import RecordedEvent
from projections.changes import Projection, RowChange


def failing_for(projection: Projection, company: str) -> Projection:
    """Return the projection, raising ValueError for the account of this company."""

    def changes(event: RecordedEvent) -> Iterable[RowChange]:
        if event.data.get("fields", {}).get("company") == company:
            raise ValueError(f"cannot digest {company}")
        return projection.changes(event)

    return Projection(
        projection.name, projection.tables, {}, every=changes, by_account=projection.by_account
    )


def companies(database: Connection) -> list[tuple[str, int]]:
    """Return company and contact count of each account, by company."""
    return database.execute(
        "SELECT company, contact_count FROM read.accounts ORDER BY company"
    ).fetchall()
