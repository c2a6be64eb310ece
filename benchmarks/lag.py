"""The lag of projections: the time from an append until its row can be read.

    python -m benchmarks.lag [--rate 500] [--seconds 10]

A writer appends at a steady rate, a projector process keeps all read tables up to date, and an
observer polls the checkpoint. The same run measures a lower bound: a writer that inserts and
notifies, and a process that listens and updates one row. Times are in milliseconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from typing import Any
from uuid import UUID, uuid4

import psycopg

from benchmarks.generated import WORKSPACE, database
from domain.account import Account
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.retries import poll_until
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS

WARM_UP_S = 2.0
OBSERVE_PAUSE_S = 0.0005
SETTLE_S = 1.0
JOIN_S = 30.0
POLL_S = 0.05
SPAWN = multiprocessing.get_context("spawn")

BARE_TABLES = """
CREATE TABLE bare_events (id bigserial PRIMARY KEY, data json);
CREATE TABLE bare_row (position bigint);
INSERT INTO bare_row VALUES (0);
GRANT ALL ON bare_events, bare_row, bare_events_id_seq TO annals_app, annals_projector;
"""
BARE_APPEND = """
INSERT INTO bare_events (data) VALUES ('{"company": "Acme"}') RETURNING id
"""


def project(url: str, stop: Event) -> None:
    """Run the engine until `stop` is set, in the projector process."""
    engine = ProjectionEngine(url, PROJECTIONS.values())

    def end() -> None:
        stop.wait()
        engine.stop()

    threading.Thread(target=end, daemon=True).start()
    engine.run()


def update_on_notify(url: str, stop: Event) -> None:
    """Run in the process that listens for NOTIFY and updates one row."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN bare")
        while not stop.is_set():
            if list(connection.notifies(timeout=0.2, stop_after=1)):
                connection.execute(
                    "UPDATE bare_row SET position = (SELECT max(id) FROM bare_events)", prepare=True
                )


def observe(url: str, query: str, stop: Event, results: multiprocessing.Queue[Any]) -> None:
    """Run in the process that records when each position was first seen."""
    seen_at: dict[int, float] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        last = 0
        while not stop.is_set():
            row = connection.execute(query.encode(), prepare=True).fetchone()
            now = time.monotonic()
            if row and row[0] > last:
                seen_at.update((position, now) for position in range(last + 1, row[0] + 1))
                last = row[0]
            time.sleep(OBSERVE_PAUSE_S)
    results.put(seen_at)


def measure(
    append: Callable[[], int], url: str, query: str, rate: float, seconds: float
) -> list[float]:
    """Return the milliseconds from the return of each append until it was seen."""
    results: multiprocessing.Queue[Any] = SPAWN.Queue()
    stop = SPAWN.Event()
    observer = SPAWN.Process(target=observe, args=(url, query, stop, results))
    observer.start()
    committed: dict[int, float] = {}
    started = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - started) < seconds + WARM_UP_S:
        position = append()
        if elapsed > WARM_UP_S:
            committed[position] = time.monotonic()
        number += 1
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
    time.sleep(SETTLE_S)
    stop.set()
    seen_at = results.get(timeout=JOIN_S)
    observer.join()
    return [
        1000 * max(0.0, seen_at[each] - at) for each, at in committed.items() if each in seen_at
    ]


def measure_annals(app_url: str, projector_url: str, rate: float, seconds: float) -> list[float]:
    """Measure the way through EventLog, Hinter and the engine with all projections."""
    stop = SPAWN.Event()
    process = SPAWN.Process(target=project, args=(projector_url, stop))
    process.start()
    _wait_for_holder(projector_url)
    hinter = Hinter(app_url)
    scope = Scope(UUID(WORKSPACE))
    fields = {"company": "Acme", "type": "customer"}
    try:
        with write_pool(app_url, max_size=2) as pool:
            log = EventLog(pool, after_append=hinter.hint)

            def append() -> int:
                with log.scoped(scope):
                    at = datetime.now(UTC)
                    made = Account.create(uuid4(), scope.workspace_id, fields, at=at)
                    return log.append(made) or 0

            query = "SELECT position FROM projections WHERE name = 'accounts'"
            return measure(append, projector_url, query, rate, seconds)
    finally:
        hinter.close()
        stop.set()
        process.join()


def _wait_for_holder(url: str) -> None:
    """Wait until the projector process works on every projection."""
    with psycopg.connect(url, autocommit=True) as connection:

        def has_started() -> bool:
            cursor = connection.execute("SELECT bool_and(holder IS NOT NULL) FROM projections")
            return bool(cursor.fetchall()[0][0])

        if not poll_until(has_started, JOIN_S, POLL_S):
            raise TimeoutError("the projector does not start")


def measure_lower_bound(
    app_url: str, projector_url: str, rate: float, seconds: float
) -> list[float]:
    """Measure INSERT and NOTIFY in one transaction, followed by one UPDATE in the listener."""
    stop = SPAWN.Event()
    process = SPAWN.Process(target=update_on_notify, args=(projector_url, stop))
    process.start()
    try:
        with psycopg.connect(app_url) as connection:

            def append() -> int:
                row = connection.execute(BARE_APPEND, prepare=True).fetchone()
                connection.execute("NOTIFY bare")
                connection.commit()
                return int(row[0]) if row else 0

            query = "SELECT position FROM bare_row"
            return measure(append, projector_url, query, rate, seconds)
    finally:
        stop.set()
        process.join()


def report(name: str, lags_ms: list[float]) -> tuple[float, float]:
    """Print p50 and p99 and return them."""
    cuts = statistics.quantiles(lags_ms, n=100)
    print(f"{name:<34} p50 {cuts[49]:7.2f} ms   p99 {cuts[98]:7.2f} ms   n {len(lags_ms)}")
    return cuts[49], cuts[98]


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with database() as urls:
        with psycopg.connect(urls.owner, autocommit=True) as connection:
            connection.execute(BARE_TABLES)
        lags_ms = measure_lower_bound(urls.app, urls.projector, options.rate, options.seconds)
        least = report("bare NOTIFY and update, one row", lags_ms)
        lags_ms = measure_annals(urls.app, urls.projector, options.rate, options.seconds)
        found = report("commit to readable, all read models", lags_ms)
        print(f"ours / bare: p50 {found[0] / least[0]:.2f}, p99 {found[1] / least[1]:.2f}  (aim 2)")


if __name__ == "__main__":
    main()
