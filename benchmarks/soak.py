"""A soak: steady writes with lists and searches beside them, and whether anything grows.

    python -m benchmarks.soak [--minutes 30] [--rate 500] [--accounts 50000]

Writers change and create entities at the rate, a projector process keeps all read tables up to
date, and a client of the API reads lists and searches. For each sixth of the time it prints the
writes per second, the lag of the read tables, the times of lists and searches, all in milliseconds
(p50 and p99), and the sizes of the log, of the read tables and of their dead rows in MiB. The last
line compares the last sixth with the first.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg

from benchmarks.export import serving
from benchmarks.generated import WORKSPACE, database
from benchmarks.lag import SPAWN, project
from benchmarks.lists import TERMS, fill
from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from domain.shared.fields import FieldValues
from domain.task import Task
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.retries import poll_until
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from server.postgres.embedded import DatabaseUrls

WRITERS = 4
OWN_ACCOUNTS = 1_000
"""Accounts that each writer creates first, and then changes and gives contacts and tasks."""
READS_PER_S = 20
PERIODS = 6
LAG_INTERVAL_S = 0.1
LAG_WAIT_S = 60.0
LAG_POLL_S = 0.001
SECONDS_PER_MINUTE = 60
MIB = 2**20

SELECT_SIZES = """
SELECT pg_total_relation_size('events'),
       (SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables
         WHERE schemaname = 'read'),
       (SELECT coalesce(sum(n_dead_tup * pg_relation_size(relid) / (n_live_tup + n_dead_tup)), 0)
          FROM pg_stat_user_tables WHERE schemaname = 'read' AND n_live_tup + n_dead_tup > 0)
"""
SELECT_POSITIONS = "SELECT max(position) FROM events"
SELECT_PROJECTED = "SELECT min(position) FROM projections WHERE name NOT LIKE '%:%'"


@dataclass
class Samples:
    """What was measured since the last period."""

    writes: int = 0
    ms: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, ms: float) -> None:
        """Add a time."""
        with self.lock:
            self.ms.setdefault(name, []).append(ms)

    def take(self) -> tuple[int, dict[str, list[float]]]:
        """Return and reset the number of writes and the times."""
        with self.lock:
            taken = self.writes, self.ms
            self.writes, self.ms = 0, {}
        return taken


def next_action(number: int) -> Callable[[FieldValues], FieldValues]:
    """A change of an account's next action."""
    return lambda values: {**values, "nextAction": f"Call about offer {number}"}


def write(urls: DatabaseUrls, rate: float, stop: threading.Event, samples: Samples) -> None:
    """Write at a rate until stopped: changes of accounts, new contacts, new tasks."""
    rng = random.Random()
    hinter = Hinter(urls.app)
    with write_pool(urls.app, max_size=1) as pool:
        log = EventLog(pool, after_append=hinter.hint)
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
        scope = Scope(UUID(WORKSPACE))
        fields = {"company": "Soak", "type": "customer"}
        accounts = [commands.create(scope, Account, fields).entity.id for _ in range(OWN_ACCOUNTS)]
        started, number = time.monotonic(), 0
        while not stop.is_set():
            account = rng.choice(accounts)
            kind = number % 3
            if kind == 0:
                commands.revise(scope, Account, account, next_action(number))
            elif kind == 1:
                commands.create(scope, Contact, {"name": f"Ada {number}"}, account_id=account)
            else:
                commands.create(scope, Task, {"title": "Call"}, account_id=account)
            number += 1
            with samples.lock:
                samples.writes += 1
            stop.wait(max(0.0, started + number / rate - time.monotonic()))
    hinter.close()


def read(url: str, token: str, stop: threading.Event, samples: Samples) -> None:
    """Read lists and searches in turn until stopped."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        for number in range(10**9):
            if stop.wait(1 / READS_PER_S):
                return
            is_search = number % 2 == 0
            query = {"search": TERMS[number // 2 % len(TERMS)]} if is_search else {}
            started = time.perf_counter()
            client.get("/api/accounts", params=query).raise_for_status()
            name = "search" if is_search else "list"
            samples.add(name, 1000 * (time.perf_counter() - started))


def watch_lag(url: str, stop: threading.Event, samples: Samples) -> None:
    """Measure, again and again, how long the newest event takes to reach every read table."""
    with psycopg.connect(url, autocommit=True) as connection:

        def number(statement: str) -> int:
            row = connection.execute(statement.encode(), prepare=True).fetchone()
            return int(row[0]) if row else 0

        def await_projected(position: int) -> None:
            poll_until(lambda: number(SELECT_PROJECTED) >= position, LAG_WAIT_S, LAG_POLL_S)

        while not stop.wait(LAG_INTERVAL_S):
            newest, started = number(SELECT_POSITIONS), time.perf_counter()
            await_projected(newest)
            samples.add("lag", 1000 * (time.perf_counter() - started))


def print_period(
    minutes: float, seconds: float, connection: psycopg.Connection[Any], samples: Samples
) -> dict[str, float]:
    """Print and return what was measured in a period of this many seconds."""
    writes, times = samples.take()
    row = connection.execute(SELECT_SIZES).fetchone()
    assert row is not None
    log, tables, dead = (float(each) / MIB for each in row)
    found = {"writes": writes / seconds, "log": log, "tables": tables, "dead": dead}
    text = f"{minutes:6.1f} min  {found['writes']:5.0f} writes/s"
    for name, ms in sorted(times.items()):
        cuts = statistics.quantiles(ms, n=100)
        found |= {f"{name} p50": cuts[49], f"{name} p99": cuts[98]}
        text += f"  {name} {cuts[49]:.1f} {cuts[98]:.1f}"
    print(f"{text}  log {log:.0f} tables {tables:.0f} dead {dead:.0f}", flush=True)
    return found


def soak(urls: DatabaseUrls, url: str, token: str, minutes: float, rate: float) -> None:
    """Run all threads for the time and print each period."""
    stop, samples = threading.Event(), Samples()
    work: list[Callable[[], None]] = [
        *[lambda: write(urls, rate / WRITERS, stop, samples)] * WRITERS,
        lambda: read(url, token, stop, samples),
        lambda: watch_lag(urls.projector, stop, samples),
    ]
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    period_s = minutes * SECONDS_PER_MINUTE / PERIODS
    periods = []
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        for number in range(PERIODS):
            time.sleep(period_s)
            ended = period_s * (number + 1) / SECONDS_PER_MINUTE
            periods.append(print_period(ended, period_s, connection, samples))
    if not all(thread.is_alive() for thread in threads):
        raise SystemExit("a writer or reader ended with an error (above)")
    stop.set()
    for thread in threads:
        thread.join()
    first, last = periods[0], periods[-1]
    compared = (f"{name} {last[name] / first[name]:.2f}" for name in sorted(first) if first[name])
    print("last / first: " + ", ".join(compared))


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--accounts", type=int, default=50_000)
    options = parser.parse_args()
    with database() as urls:
        token = fill(urls, options.accounts)
        stop = SPAWN.Event()
        projector = SPAWN.Process(target=project, args=(urls.projector, stop))
        projector.start()
        try:
            with serving(urls) as (url, _):
                soak(urls, url, token, options.minutes, options.rate)
        finally:
            stop.set()
            projector.join()


if __name__ == "__main__":
    main()
