"""Appends per second, compared with plain inserts and with the library's PostgreSQL recorder.

    python -m benchmarks.append [--seconds 3] [--rounds 3] [--writers 1 4 16] [--url SUPERUSER_URL]

Each round measures three ways one after the other, so that other load affects all of them:

log    aggregates created, validated, mapped and appended through EventLog
raw    the same bytes in one INSERT by psycopg: same columns and indexes, no trigger, no policy
stock  the eventsourcing library's own application and PostgreSQL recorder, same data

Everything is repeated with each flush of the write-ahead log slowed by 1 ms, as on a cloud disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID, uuid4

import orjson
import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from psycopg import sql

from domain.account import Account, AccountFields
from eventlog.connections import write_pool
from eventlog.migrations import migrate
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog

WAYS = ("log", "raw", "stock")
BATCHES = (1, 10)
PRELOADED = [
    "domain.shared.kinds",
    "eventlog.store.log",
    "eventlog.migrations",
    "eventsourcing.postgres",
]
WARM_UP_S = 0.3
JOIN_WAIT_S = 120.0
ROLES = ("annals_owner", "annals_app", "annals_projector", "annals_sender")
# The leader of a group commit sleeps this long, in microseconds, before it flushes.
SLOW_FSYNC = {"commit_delay": "1000", "commit_siblings": "0"}

FIELDS = {
    "company": "Acme Corporation",
    "type": "investor",
    "priority": "high",
    "nextAction": "Send the term sheet",
    "checkSize": "250000.00",
    "customFields": {"sector": "technology", "region": "emea"},
}
WORKSPACE = UUID(int=1)
SCOPE = Scope(
    WORKSPACE,
    Actor("member", str(UUID(int=2)), "Ada Lovelace"),
    command="create_account",
    command_id=str(UUID(int=3)),
    request_id=str(UUID(int=4)),
    ip="192.0.2.1",
    user_agent="Mozilla/5.0 (X11; Linux x86_64)",
)

CREATE_RAW_TABLE = """
CREATE TABLE raw_events (
    position       bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    workspace_id   uuid        NOT NULL,
    stream_id      uuid        NOT NULL,
    stream_version integer     NOT NULL CHECK (stream_version > 0),
    topic          text        NOT NULL,
    account_id     uuid,
    data           json        NOT NULL,
    metadata       json        NOT NULL,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (stream_id, stream_version)
);
CREATE INDEX ON raw_events (account_id) WHERE stream_version = 1 AND account_id IS NOT NULL;
"""
INSERT_RAW = """
INSERT INTO raw_events (workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
                        occurred_at)
VALUES {rows} RETURNING position
"""


class StockAccount(Aggregate):
    """An account in the library's default style."""

    class Created(Aggregate.Created):
        workspace_id: UUID
        account_id: UUID | None
        fields: dict[str, Any]
        metadata: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        self.values = values

    @classmethod
    def open(cls) -> StockAccount:
        """Create an account, with fields validated like those of `Account`."""
        return cls._create(
            cls.Created,
            id=uuid4(),
            timestamp=datetime.now(UTC),
            workspace_id=WORKSPACE,
            account_id=None,
            fields=AccountFields.validated(FIELDS),
            metadata=SCOPE.metadata(),
        )


@contextmanager
def appender(way: str, url: str, batch: int) -> Iterator[Callable[[], None]]:
    """Give a function that appends `batch` events in one transaction, in this way."""
    open_appender = {"log": log_appender, "raw": raw_appender, "stock": stock_appender}[way]
    with open_appender(url, batch) as append:
        yield append


@contextmanager
def log_appender(url: str, batch: int) -> Iterator[Callable[[], None]]:
    with write_pool(acting_as("annals_app", url), max_size=1) as pool:
        log = EventLog(pool)

        def append() -> None:
            accounts = [
                Account.create(uuid4(), WORKSPACE, FIELDS, at=datetime.now(UTC))
                for _ in range(batch)
            ]
            with log.scoped(SCOPE):
                log.append(*accounts)

        yield append


@contextmanager
def raw_appender(url: str, batch: int) -> Iterator[Callable[[], None]]:
    data = orjson.dumps({"fields": AccountFields.validated(FIELDS)}).decode()
    metadata = orjson.dumps(SCOPE.metadata()).decode()
    row = "(%s, %s, %s, %s, %s, %s, %s, %s)"
    statement = INSERT_RAW.replace("{rows}", ", ".join([row] * batch)).encode()
    with psycopg.connect(url, autocommit=True) as connection:

        def append() -> None:
            values: list[Any] = []
            for _ in range(batch):
                now = datetime.now(UTC)
                values += [WORKSPACE, uuid4(), 1, "account.created", None, data, metadata, now]
            connection.execute(statement, values, prepare=True).fetchall()

        yield append


@contextmanager
def stock_appender(url: str, batch: int) -> Iterator[Callable[[], None]]:
    application = Application[UUID](env=stock_settings(url, create_table=False))
    try:
        yield lambda: discard(application.save(*(StockAccount.open() for _ in range(batch))))
    finally:
        application.close()


def discard(_: object) -> None:
    """Ignore a result."""


def stock_settings(url: str, *, create_table: bool) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.lstrip("/"),
        "POSTGRES_HOST": parts.hostname or "127.0.0.1",
        "POSTGRES_PORT": str(parts.port or 5432),
        "POSTGRES_USER": parts.username or "postgres",
        "POSTGRES_PASSWORD": parts.password or "",
        "CREATE_TABLE": "yes" if create_table else "no",
    }


def acting_as(role: str, url: str) -> str:
    """Return the superuser's URL for a session that has only the rights of the role."""
    return f"{url}?options={quote(f'-c role={role}')}"


# Measuring


@dataclass(frozen=True)
class Case:
    """The parameters of one line of the table."""

    slow_fsync: bool
    batch: int
    writers: int


def append_until_end(
    way: str, url: str, batch: int, seconds: float, start: Any, results: Any
) -> None:
    """One writer process: count the events appended between the common start and the end."""
    with appender(way, url, batch) as append:
        warm = time.monotonic() + WARM_UP_S
        while time.monotonic() < warm:
            append()
        start.wait(JOIN_WAIT_S)
        appended, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            append()
            appended += batch
        results.put(appended)


def events_per_second(way: str, url: str, case: Case, seconds: float) -> float:
    forkserver = multiprocessing.get_context("forkserver")
    start, results = forkserver.Barrier(case.writers), forkserver.Queue()
    arguments = (way, url, case.batch, seconds, start, results)
    writers = [
        forkserver.Process(target=append_until_end, args=arguments) for _ in range(case.writers)
    ]
    for writer in writers:
        writer.start()
    total = sum(results.get(timeout=JOIN_WAIT_S) for _ in writers)
    for writer in writers:
        writer.join(JOIN_WAIT_S)
    return float(total / seconds)


def measure(url: str, case: Case, seconds: float, rounds: int) -> dict[str, float]:
    """Measure the events per second of each way, as the median of the rounds."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with flush_delay(url, slow=case.slow_fsync):
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(events_per_second(way, url, case, seconds))
    return {way: statistics.median(rates) for way, rates in found.items()}


@contextmanager
def flush_delay(url: str, *, slow: bool) -> Iterator[None]:
    """Slow down flushes of the write-ahead log within the block, if `slow`."""
    try:
        if slow:
            configure(url, "ALTER SYSTEM SET {} = {}")
        yield
    finally:
        if slow:
            configure(url, "ALTER SYSTEM RESET {}")


def configure(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in SLOW_FSYNC.items():
            parts = [sql.Identifier(name), sql.Literal(value)][: statement.count("{}")]
            connection.execute(sql.SQL(statement).format(*parts))
        connection.execute("SELECT pg_reload_conf()")
    time.sleep(0.2)  # until the backends have read the settings


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """A new database with the three tables, dropped at the end."""
    name = f"annals_benchmark_{time.time_ns()}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as connection:
        existing = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        for role in ROLES:
            if role not in existing:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(ROLES[0])
            )
        )
    try:
        migrate(acting_as(ROLES[0], url))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(CREATE_RAW_TABLE)
        Application[UUID](env=stock_settings(url, create_table=True)).close()
        yield url
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The superuser's URL: the given one, or that of a new embedded server."""
    if url is not None:
        yield url
        return
    from server.postgres.embedded import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="annals-benchmark-") as folder:
        Path(folder).chmod(0o755)  # the server may run as another user
        with EmbeddedPostgres(Path(folder) / "home") as cluster:
            yield cluster.superuser_url


def cases(writers: Sequence[int]) -> list[Case]:
    return [
        Case(slow, batch, count) for slow in (False, True) for batch in BATCHES for count in writers
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument(
        "--seconds", type=float, default=3.0, help="duration of each measurement"
    )
    arguments.add_argument(
        "--rounds", type=int, default=3, help="number of rounds; the median is printed"
    )
    arguments.add_argument("--writers", type=int, nargs="+", default=[1, 4, 16])
    arguments.add_argument("--url", help="superuser's URL of a server to use instead of a new one")
    given = arguments.parse_args()
    multiprocessing.set_forkserver_preload(PRELOADED)
    print("events/s                 writers       log       raw     stock   log/raw  log/stock")
    with server(given.url) as server_url, database(server_url) as url:
        for case in cases(given.writers):
            rate = measure(url, case, given.seconds, given.rounds)
            name = f"{case.batch} an append{', fsync + 1 ms' if case.slow_fsync else ''}"
            print(
                f"{name:<25}{case.writers:>7}"
                + "".join(f"{rate[way]:>10,.0f}" for way in WAYS)
                + f"{rate['log'] / rate['raw']:>10.2f}{rate['log'] / rate['stock']:>11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
