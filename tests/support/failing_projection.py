"""A projection that cannot handle one account's events, and a look at the rows of the others."""

from __future__ import annotations

from eventlog.connections import Connection
from projections.changes import Projection
from tests.support.watched_projection import Watched, watched


def failing_for(projection: Projection, company: str) -> Projection:
    """Return the projection, raising ValueError for the account of this company."""

    def fail(event: Watched) -> None:
        if event.data.get("fields", {}).get("company") == company:
            raise ValueError(f"cannot digest {company}")

    return watched(projection, fail)


def companies(database: Connection) -> list[tuple[str, int]]:
    """Return company and contact count of each account, by company."""
    return database.execute(
        "SELECT company, contact_count FROM read.accounts ORDER BY company"
    ).fetchall()
