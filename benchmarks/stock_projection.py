"""For comparison: the eventsourcing library's recorder and ProjectionRunner, with an SQL upsert."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner

EVENTS_PER_SAVE = 100
WAIT_S = 600.0


class StockAccount(Aggregate):
    """An account in the library's own style."""

    @event("Created")
    def __init__(self, company: str) -> None:
        self.company = company


class Accounts(Application[Any]):
    """The library's application."""


class AccountsView(PostgresTrackingRecorder):
    """One table, upserted in the transaction that records the position."""

    def __init__(self, datastore: Any, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        self.sql_create_statements.append(
            _sql("CREATE TABLE IF NOT EXISTS stock_accounts (id uuid PRIMARY KEY, company text)")
        )

    def put(self, account_id: Any, company: str, tracking: Tracking) -> None:
        """Upsert the row and record the position."""
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                """INSERT INTO stock_accounts VALUES (%s, %s)
                   ON CONFLICT (id) DO UPDATE SET company = excluded.company""",
                (account_id, company),
                prepare=True,
            )
            self._insert_tracking(cursor, tracking)


def _sql(text: str) -> Any:
    from psycopg.sql import SQL, Composed

    return Composed([SQL(text)])


class AccountsProjection(Projection[AccountsView]):
    """Projects one event at a time, as the library does."""

    name = "stock_accounts"

    @singledispatchmethod
    def process_event(self, _event: Any, tracking: Tracking) -> None:
        """Ignore events of other kinds."""

    @process_event.register
    def _(self, created: StockAccount.Created, tracking: Tracking) -> None:
        self.view.put(created.originator_id, vars(created)["company"], tracking)


def stock_events_per_s(url: str, events: int) -> float:
    """Return the events per second of the ProjectionRunner over a log in the library's format."""
    parts = urlsplit(url)
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.lstrip("/"),
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": parts.username or "",
        "POSTGRES_PASSWORD": parts.password or "",
    }
    last = 0
    with Accounts(env) as application:
        for _ in range(events // EVENTS_PER_SAVE):
            made = [StockAccount(company=f"Acme {uuid4()}") for _ in range(EVENTS_PER_SAVE)]
            last = application.save(*made)[-1].notification.id
    started = time.monotonic()
    with ProjectionRunner(
        application_class=Accounts,
        projection_class=AccountsProjection,
        view_class=AccountsView,
        env=env,
    ) as runner:
        runner.wait(last, timeout=WAIT_S)
        return events / (time.monotonic() - started)
