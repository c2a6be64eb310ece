"""Databases for benchmarks: a new embedded server, and a log filled by COPY."""

from __future__ import annotations

import itertools
import random
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psycopg

from server.postgres.embedded import DatabaseUrls, EmbeddedPostgres, prepare_database
from server.postgres.upgrade import upgrade

WORKSPACE = "00000000-0000-7000-8000-000000000001"
START = datetime(2025, 1, 1, tzinfo=UTC)
METADATA = orjson.dumps(
    {
        "actor": {"type": "member", "id": "ada", "name": "Ada"},
        "command": "benchmark",
        "commandId": "018f0000-0000-7000-8000-000000000000",
        "requestId": "018f0000-0000-7000-8000-000000000001",
        "ip": "127.0.0.1",
    }
).decode()
WORDS = (
    "Acme",
    "Bluth",
    "Cyber",
    "Delta",
    "Echo",
    "Fabri",
    "Globex",
    "Hooli",
    "Initech",
    "Soylent",
)
NAMES = (
    "Ada",
    "Grace",
    "Alan",
    "Edsger",
    "Barbara",
    "Donald",
    "Frances",
    "John",
    "Margaret",
    "Ken",
)
STATUSES = ("prospect", "active", "on_hold", "inactive", "churned")
PRIORITIES = ("low", "medium", "high", "urgent")

BLOCK_EVENTS = 20_000
APPEND = "SELECT count(*) FROM append_events(%s, %s::json, %s::json)"

COPY_EVENTS = """
COPY events (workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
             occurred_at) FROM STDIN
"""

Event = tuple[str, int, str, str | None, dict[str, Any]]
"""Stream, version, topic, account, data."""


@contextmanager
def database(name: str = "benchmark") -> Iterator[DatabaseUrls]:
    """A migrated database on an embedded server that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="annals-benchmark-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "home") as cluster:
            urls = prepare_database(cluster, name)
            upgrade(urls.owner, urls.projector)
            yield urls


def cpu_s(pid: int) -> float:
    """CPU that the main thread of a process has used, in seconds, to the microsecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def free_port() -> int:
    """A port of this machine that no server listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def fill_log(app_url: str, events: int, *, seed: int = 1) -> None:
    """Append this number of generated CRM events, BLOCK_EVENTS in each transaction."""
    with psycopg.connect(app_url) as connection:
        generated = itertools.islice(generate(seed), events)
        while block := list(itertools.islice(generated, BLOCK_EVENTS)):
            connection.execute(APPEND, (WORKSPACE, as_batch(block, START), METADATA))
            connection.commit()


def copy_log(owner_url: str, events: int, *, seed: int = 1) -> None:
    """As `fill_log`, by COPY."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        # COPY does not write to a table with row-level security.
        connection.execute("ALTER TABLE events NO FORCE ROW LEVEL SECURITY")
        generated = itertools.islice(generate(seed), events)
        while block := list(itertools.islice(generated, BLOCK_EVENTS)):
            with connection.cursor() as cursor, cursor.copy(COPY_EVENTS) as copy:
                for stream, version, topic, account, data in block:
                    raw = orjson.dumps(data).decode()
                    row = (WORKSPACE, stream, version, topic, account, raw, METADATA, START)
                    copy.write_row(row)
        connection.execute("ALTER TABLE events FORCE ROW LEVEL SECURITY")
        connection.execute("VACUUM ANALYZE events")


def as_batch(events: Iterable[Event], since: datetime) -> str:
    """Return the events as the database function append_events takes them, a second apart."""
    batch = [
        {
            "stream": stream,
            "version": version,
            "topic": topic,
            "account": account,
            "data": data,
            "occurred": since + timedelta(seconds=number),
        }
        for number, (stream, version, topic, account, data) in enumerate(events)
    ]
    return orjson.dumps(batch).decode()


def generate(seed: int) -> Iterator[Event]:
    """Yield CRM events without end: accounts and the entities that belong to them."""
    rng = random.Random(seed)
    for number in itertools.count():
        yield from _account(rng, number)


def _account(rng: random.Random, number: int) -> Iterator[Event]:
    account = _id(rng)
    fields = {
        "company": f"{rng.choice(WORDS)} {rng.choice(WORDS)} {number}",
        "type": "customer",
        "status": "prospect",
        "priority": rng.choice(PRIORITIES),
        "dealValue": f"{rng.randrange(1_000_000)}.00",
        "customFields": {"sector": rng.choice(WORDS), "employees": rng.randrange(10_000)},
    }
    yield account, 1, "account.created", None, {"fields": fields}
    for _ in range(2):
        name = f"{rng.choice(NAMES)} {rng.choice(WORDS)}"
        contact = {"name": name, "email": f"{number}@example.com", "phone": "+44 20 7946 0000"}
        yield _id(rng), 1, "contact.created", account, {"fields": contact}
    task = _id(rng)
    yield task, 1, "task.created", account, {"fields": {"title": "Call back", "status": "todo"}}
    change = {"before": "prospect", "after": rng.choice(STATUSES[1:])}
    yield account, 2, "account.status_changed", None, change
    yield task, 2, "task.status_changed", account, {"before": "todo", "after": "done"}
    deal = _id(rng)
    opportunity = {"name": f"Deal {number}", "stage": "prospecting", "value": "1000.00"}
    yield deal, 1, "opportunity.created", account, {"fields": opportunity}
    changes = {"nextAction": {"before": None, "after": "Send the contract"}}
    yield account, 3, "account.updated", None, {"changes": changes}
    stage = {"before": "prospecting", "after": rng.choice(("won", "lost", "engaging"))}
    yield deal, 2, "opportunity.stage_changed", account, stage
    yield _id(rng), 1, "note.created", account, {"fields": {"body": "Prefers the morning."}}


def _id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))
