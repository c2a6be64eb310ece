"""From commit to readable: how long after an append its row can be read.

    python -m benchmarks.lag [--rate 500] [--seconds 10]

A writer appends at a steady rate; a projector process keeps all read models; an observer looks at
the checkpoint without pause. Beside it, in the same run, the least there is: a writer that inserts
and notifies, and a process that hears it and updates one row. Milliseconds.
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
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS

WARM_UP_S = 2.0
OBSERVE_PAUSE_S = 0.0005
SETTLE_S = 1.0
JOIN_S = 30.0
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
    """The projector process."""
    engine = ProjectionEngine(url, PROJECTIONS.values())

    def end() -> None:
        stop.wait()
        engine.stop()

    threading.Thread(target=end, daemon=True).start()
    engine.run()


def bare_follow(url: str, stop: Event) -> None:
    """The process that hears a NOTIFY and updates one row."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN bare")
        while not stop.is_set():
            if list(connection.notifies(timeout=0.2, stop_after=1)):
                connection.execute(
                    "UPDATE bare_row SET position = (SELECT max(id) FROM bare_events)", prepare=True
                )


def observe(url: str, query: str, stop: Event, seen: multiprocessing.Queue[Any]) -> None:
    """The process that notes when each position was first seen."""
    sights: dict[int, float] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        last = 0
        while not stop.is_set():
            row = connection.execute(query.encode(), prepare=True).fetchone()
            now = time.monotonic()
            if row and row[0] > last:
                sights.update((position, now) for position in range(last + 1, row[0] + 1))
                last = row[0]
            time.sleep(OBSERVE_PAUSE_S)
    seen.put(sights)


def measure(
    append: Callable[[], int], url: str, query: str, rate: float, seconds: float
) -> list[float]:
    """Milliseconds from each append's return to the sight of it, on one monotonic clock."""
    seen: multiprocessing.Queue[Any] = SPAWN.Queue()
    stop = SPAWN.Event()
    observer = SPAWN.Process(target=observe, args=(url, query, stop, seen))
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
    sights = seen.get(timeout=JOIN_S)
    observer.join()
    return [1000 * max(0.0, sights[each] - at) for each, at in committed.items() if each in sights]


def ours(app_url: str, projector_url: str, rate: float, seconds: float) -> list[float]:
    """Through EventLog, Hinter and the engine with all projections."""
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
    """Return once the projector process works on every projection."""
    until = time.monotonic() + JOIN_S
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < until:
            row = connection.execute("SELECT bool_and(holder IS NOT NULL) FROM projections")
            if row.fetchall()[0][0]:
                return
            time.sleep(OBSERVE_PAUSE_S * 100)
    raise TimeoutError("the projector does not start")


def bare(app_url: str, projector_url: str, rate: float, seconds: float) -> list[float]:
    """INSERT and NOTIFY in one transaction, and one UPDATE by whoever hears it."""
    stop = SPAWN.Event()
    process = SPAWN.Process(target=bare_follow, args=(projector_url, stop))
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
    """Print and return p50 and p99."""
    cuts = statistics.quantiles(lags_ms, n=100)
    print(f"{name:<34} p50 {cuts[49]:7.2f} ms   p99 {cuts[98]:7.2f} ms   n {len(lags_ms)}")
    return cuts[49], cuts[98]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with database() as urls:
        with psycopg.connect(urls.owner, autocommit=True) as connection:
            connection.execute(BARE_TABLES)
        least = report("bare NOTIFY and update, one row",
                       bare(urls.app, urls.projector, options.rate, options.seconds))  # fmt: skip
        found = report("commit to readable, all read models",
                       ours(urls.app, urls.projector, options.rate, options.seconds))  # fmt: skip
        print(f"ours / bare: p50 {found[0] / least[0]:.2f}, p99 {found[1] / least[1]:.2f}  (aim 2)")


if __name__ == "__main__":
    main()
