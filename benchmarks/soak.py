"""A soak: steady writes with lists and searches beside them, and whether anything grows.

    python -m benchmarks.soak [--minutes 30] [--rate 500] [--accounts 50000]

Writers change and create entities at the rate, ten of them for each account, a projector process
keeps all read tables up to date, and a client of the API reads lists and searches. For each sixth
of the time it prints the writes per second, the lag of the read tables, the times of lists and
searches, all in milliseconds (p50 and p99), and the sizes of the log, of the read tables and of
their dead rows in MiB. The last line compares the last sixth with the first.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg

from benchmarks.export import serving
from benchmarks.generated import STATUSES, WORKSPACE, database
from benchmarks.lag import SPAWN, project
from benchmarks.lists import TERMS, account_fields, contact_fields, fill
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
NEWEST_ACCOUNTS = 500
"""Each writer changes this number of accounts, the last ones that it created."""
READS_PER_S = 20
PERIODS = 6
LAG_INTERVAL_S = 0.1
LAG_WAIT_S = 60.0
LAG_POLL_S = 0.001
SECONDS_PER_MINUTE = 60
WARM_UP_S = 40.0
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

    ms: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, ms: float) -> None:
        """Add a time."""
        with self.lock:
            self.ms.setdefault(name, []).append(ms)

    def take(self) -> dict[str, list[float]]:
        """Return and forget the times."""
        with self.lock:
            taken, self.ms = self.ms, {}
        return taken


def next_action(number: int) -> Callable[[FieldValues], FieldValues]:
    """A change of an account's next action."""
    return lambda values: {**values, "nextAction": f"Call about offer {number}"}


def write_all(app_url: str, rate: float, stop: Event, written: Synchronized[int]) -> None:
    """Run in the process of all writers, apart from the client whose times are measured."""
    rng = random.Random()
    hinter = Hinter(app_url)
    with write_pool(app_url, max_size=WRITERS) as pool, ThreadPoolExecutor(WRITERS) as threads:
        log = EventLog(pool, after_append=hinter.hint)
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
        running = [
            threads.submit(write, commands, rng.random(), rate / WRITERS, stop, written)
            for _ in range(WRITERS)
        ]
        for each in running:
            each.result()
    hinter.close()


def write(
    commands: EntityCommands, seed: float, rate: float, stop: Event, written: Synchronized[int]
) -> None:
    """Write at a rate until stopped: of ten writes one creates an account, three each change one,
    add a contact and add a task. So the newest accounts look alike at all times.
    """
    rng, scope = random.Random(seed), Scope(UUID(WORKSPACE))
    accounts: deque[UUID] = deque(maxlen=NEWEST_ACCOUNTS)
    due = time.monotonic()
    for number in count():
        if stop.is_set():
            return
        kind = number % 10
        if kind == 0:
            fields = {**account_fields(rng), "status": rng.choice(STATUSES)}
            accounts.append(commands.create(scope, Account, fields).entity.id)
        elif kind % 3 == 0:
            commands.revise(scope, Account, rng.choice(accounts), next_action(number))
        elif kind % 3 == 1:
            fields = contact_fields(rng)
            commands.create(scope, Contact, fields, account_id=rng.choice(accounts))
        else:
            commands.create(scope, Task, {"title": "Call"}, account_id=rng.choice(accounts))
        with written.get_lock():
            written.value += 1
        due = max(due + 1 / rate, time.monotonic())  # what was missed is not made up for
        stop.wait(due - time.monotonic())


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
    minutes: float,
    writes_per_s: float,
    connection: psycopg.Connection[Any],
    samples: Samples,
) -> dict[str, float]:
    """Print and return what was measured in a period that ended after these minutes."""
    times = samples.take()
    row = connection.execute(SELECT_SIZES).fetchone()
    assert row is not None
    log, tables, dead = (float(each) / MIB for each in row)
    found = {"writes": writes_per_s, "log": log, "tables": tables, "dead": dead}
    text = f"{minutes:6.1f} min  {writes_per_s:5.0f} writes/s"
    for name, ms in sorted(times.items()):
        cuts = statistics.quantiles(ms, n=100)
        found |= {f"{name} p50": cuts[49], f"{name} p99": cuts[98]}
        text += f"  {name} {cuts[49]:.1f} {cuts[98]:.1f}"
    print(f"{text}  log {log:.0f} tables {tables:.0f} dead {dead:.0f}", flush=True)
    return found


def soak(urls: DatabaseUrls, url: str, token: str, minutes: float, rate: float) -> None:
    """Run all threads and the writers for the time and print each period."""
    stop, samples = threading.Event(), Samples()
    work: list[Callable[[], None]] = [
        lambda: read(url, token, stop, samples),
        lambda: watch_lag(urls.projector, stop, samples),
    ]
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    with writing(urls.app, rate) as (writers, written):
        time.sleep(WARM_UP_S)
        for thread in threads:
            thread.start()
        periods = observe(urls.owner, minutes, written, samples)
        if not (writers.is_alive() and all(thread.is_alive() for thread in threads)):
            raise SystemExit("a writer or reader ended with an error (above)")
        stop.set()
        for thread in threads:
            thread.join()
    first, last = periods[0], periods[-1]
    compared = (f"{name} {last[name] / first[name]:.2f}" for name in sorted(first) if first[name])
    print("last / first: " + ", ".join(compared))


@contextmanager
def writing(app_url: str, rate: float) -> Iterator[tuple[BaseProcess, Synchronized[int]]]:
    """Run the writers; give their process and the number of writes."""
    stop, written = SPAWN.Event(), SPAWN.Value("q", 0)
    process = SPAWN.Process(target=write_all, args=(app_url, rate, stop, written))
    process.start()
    try:
        yield process, written
    finally:
        stop.set()
        process.join()


def observe(
    owner_url: str, minutes: float, written: Synchronized[int], samples: Samples
) -> list[dict[str, float]]:
    """Print and return what was measured in each period."""
    period_s = minutes * SECONDS_PER_MINUTE / PERIODS
    periods, before = [], written.value
    with psycopg.connect(owner_url, autocommit=True) as connection:
        for number in range(1, PERIODS + 1):
            time.sleep(period_s)
            rate, before = (written.value - before) / period_s, written.value
            ended = period_s * number / SECONDS_PER_MINUTE
            periods.append(print_period(ended, rate, connection, samples))
    return periods


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
