"""The rate of list exports over HTTP, compared with a raw COPY TO STDOUT of the same rows.

    python -m benchmarks.export [--rows 50000] [--rounds 3]

Prints rows per second, the time to the first byte, the API's memory, and the time that another
client waits for a page of the list meanwhile. API, client and PostgreSQL share the same cores. The
export with contacts is also compared with two raw COPYs, of the accounts and of their contacts, as
the accounts are only half of what it shows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import psutil
import psycopg

from benchmarks.generated import WORKSPACE, database, free_port
from commands.entities import EntityCommands
from commands.keys import issue_key
from eventlog.connections import write_pool
from eventlog.retries import poll_until
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from server.postgres.embedded import DatabaseUrls

START_WAIT_S = 60.0
POLL_S = 0.1
MIB = 2**20

# Rows as the projector writes them: accounts with four custom fields and one contact each, assigned
# to 20 members.
MEMBERS = """
INSERT INTO read.members (workspace_id, id, name, name_folded, is_deleted, custom_fields,
                          created_at, updated_at, version)
SELECT %s, lpad(to_hex(i), 32, '0')::uuid, 'Member ' || i, 'member ' || i, false, '{}',
       now(), now(), 1
  FROM generate_series(1, 20) AS i
"""
ACCOUNTS = """
INSERT INTO read.accounts (
       workspace_id, id, company, company_folded, type, status, priority, next_action,
       next_action_date, deal_value,
       contact_count, task_count, meeting_count, note_count, open_opportunity_count, assigned_to,
       custom_fields, created_at, updated_at, version, contact_names_folded)
SELECT %s, lpad(to_hex(i), 32, '0')::uuid, md5(i::text), md5(i::text), 'customer', 'active', 'high',
       'Call them back about offer ' || i, '2026-03-31', i, 1, 2, 3, 4, 5,
       lpad(to_hex(1 + i %% 20), 32, '0')::uuid,
       jsonb_build_object('sector', 'technology', 'employees', i, 'vip', true, 'region', 'EMEA'),
       '2025-01-01Z'::timestamptz + i * interval '1 minute', '2026-01-01Z', 3,
       jsonb_build_object(lpad(to_hex(i), 32, '0')::uuid, md5((-i)::text))
  FROM generate_series(1, %s) AS i
"""
CONTACTS = """
INSERT INTO read.contacts (workspace_id, id, account_id, name, name_folded, email, custom_fields,
                           created_at, updated_at, version)
SELECT %s, lpad(to_hex(i), 32, '0')::uuid, lpad(to_hex(i), 32, '0')::uuid, md5((-i)::text),
       md5((-i)::text),
       i || '@example.com', '{}', '2026-01-01Z', '2026-01-01Z', 1
  FROM generate_series(1, %s) AS i
"""
RAW = "raw COPY"
RAW_WITH_CONTACTS = "raw COPY, two tables"
RAW_ACCOUNTS = "SELECT * FROM read.accounts ORDER BY created_at DESC, id DESC"
RAW_CONTACTS = "SELECT * FROM read.contacts ORDER BY account_id, created_at, id"
REFERENCES = {RAW: (RAW_ACCOUNTS,), RAW_WITH_CONTACTS: (RAW_ACCOUNTS, RAW_CONTACTS)}
"""What exports are compared with: the time of copying the results of these queries."""
WITH_CONTACTS = "NDJSON with contacts"
EXPORTS = {
    "CSV": "/api/accounts/export?format=csv",
    "NDJSON": "/api/accounts/export?format=ndjson&includeContacts=false",
    WITH_CONTACTS: "/api/accounts/export?format=ndjson",
}


def fill(urls: DatabaseUrls, rows: int) -> str:
    """Insert the rows and return a token."""
    with write_pool(urls.owner) as pool:
        commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)
        scope = Scope(UUID(WORKSPACE))
        token = issue_key(commands, scope, {"name": "benchmark", "role": "admin"}).token
    ProjectionEngine(urls.projector, PROJECTIONS.values()).catch_up()
    with psycopg.connect(urls.projector, autocommit=True) as connection:
        connection.execute(MEMBERS, (WORKSPACE,))
        connection.execute(ACCOUNTS, (WORKSPACE, rows))
        connection.execute(CONTACTS, (WORKSPACE, rows))
        connection.execute("VACUUM ANALYZE read.members, read.accounts, read.contacts")
    return token


@contextmanager
def serving(urls: DatabaseUrls) -> Iterator[tuple[str, psutil.Process]]:
    """Run the API as a separate process; give its URL and the process."""
    port = free_port()
    environment = {
        **os.environ,
        "ANNALS_OWNER_URL": urls.owner,
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PROJECTOR_URL": urls.projector,
        "ANNALS_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "server.cli", "serve"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        if not poll_until(lambda: is_live(url), START_WAIT_S, POLL_S):
            raise TimeoutError("the API does not start")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def is_live(url: str) -> bool:
    """Return whether the API answers."""
    try:
        return httpx.get(f"{url}/livez", verify=False).is_success
    except httpx.TransportError:
        return False


class ConcurrentReader(threading.Thread):
    """Another client, which reads the first page of the list repeatedly."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self._client = client
        self.done = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self.done.wait(0.005):
            started = time.perf_counter()
            self._client.get("/api/accounts").raise_for_status()
            self.seconds.append(time.perf_counter() - started)

    def p95_ms(self) -> float:
        """Stop, and return the 95th percentile of the times, in milliseconds."""
        self.done.set()
        self.join()
        return statistics.quantiles(self.seconds, n=20)[-1] * 1000


def copy_raw(url: str, queries: Iterable[str]) -> tuple[float, float, int]:
    """Copy the results of the queries, one after another.

    Return the seconds to the first and to the last byte, and the bytes.
    """
    with psycopg.connect(url) as connection:
        started = time.perf_counter()
        first_s, size = 0.0, 0
        for query in queries:
            statement = f"COPY ({query}) TO STDOUT (FORMAT csv)".encode()
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                for block in copy:
                    first_s = first_s or time.perf_counter() - started
                    size += len(block)
        return first_s, time.perf_counter() - started, size


def export_over_http(client: httpx.Client, path: str) -> tuple[float, float, int]:
    """Run an export. Return the same as `copy_raw`."""
    started = time.perf_counter()
    first_s, size = 0.0, 0
    with client.stream("GET", path) as response:
        response.raise_for_status()
        for block in response.iter_raw():
            first_s = first_s or time.perf_counter() - started
            size += len(block)
    return first_s, time.perf_counter() - started, size


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with database() as urls:
        token = fill(urls, given.rows)
        headers = {"Authorization": f"Bearer {token}"}
        with (
            serving(urls) as (url, process),
            httpx.Client(base_url=url, headers=headers, verify=False, timeout=600) as client,
            httpx.Client(base_url=url, headers=headers, verify=False, timeout=600) as other,
        ):
            measure(client, other, process, urls.projector, given.rows, given.rounds)


def measure(
    client: httpx.Client,
    other: httpx.Client,
    process: psutil.Process,
    projector_url: str,
    rows: int,
    rounds: int,
) -> None:
    """Measure all exports in each round and print the best round of each."""
    idle = ConcurrentReader(other)
    idle.start()
    time.sleep(2)
    print(f"a page of the list alone: p95 {idle.p95_ms():.1f} ms")
    print(f"{'':<22}{'rows/s':>10}{'of raw':>8}{'MB':>7}{'first byte':>12}{'API memory':>12}")
    best: dict[str, tuple[float, float, int]] = {}
    pages: dict[str, float] = {}
    for _ in range(rounds):
        for name, queries in REFERENCES.items():
            measured = copy_raw(projector_url, queries)
            best[name] = min(best.get(name, measured), measured, key=lambda m: m[1])
        for name, path in EXPORTS.items():
            measured = export_over_http(client, path)
            best[name] = min(best.get(name, measured), measured, key=lambda m: m[1])
            reader = ConcurrentReader(other)
            reader.start()
            export_over_http(client, path)
            pages[name] = reader.p95_ms()
    for name, (first_s, seconds, size) in best.items():
        print(
            f"{name:<22}{rows / seconds:>10,.0f}{best[RAW][1] / seconds:>8.2f}"
            f"{size / 1e6:>7.1f}{first_s * 1000:>9.1f} ms"
            f"{process.memory_info().rss / MIB:>8.0f} MiB"
        )
    of_both = best[RAW_WITH_CONTACTS][1] / best[WITH_CONTACTS][1]
    print(f"{WITH_CONTACTS}: {of_both:.2f} of the {RAW_WITH_CONTACTS}")
    for name, p95_ms in pages.items():
        print(f"a page of the list during {name}: p95 {p95_ms:.1f} ms")


if __name__ == "__main__":
    main()
