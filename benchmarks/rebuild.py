"""The rate at which all read tables are rebuilt together from history.

    python -m benchmarks.rebuild [--events 1000000] [--workers 2] [--stock-events 10000]

The same run measures, for comparison, (i) a fold in plain Python of the same events into one table,
with COPY out and COPY in, on one core, (ii) the eventsourcing library's ProjectionRunner with an
SQL upsert for one table, and (iii) PostgreSQL alone: the finished rows copied from table to table
and indexed, without a fold. Rates are events per second; memory is the largest resident set of a
worker, in MiB.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import psutil
import psycopg

from benchmarks.generated import database, fill_log
from benchmarks.stock_projection import stock_events_per_s
from eventlog.connections import follow_connection
from projections.engine.install import READ_SCHEMA
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from projections.engine.rebuild.shadow import Shadow
from projections.engine.registry import PROJECTIONS
from projections.engine.rows.statements import SELECT_COLUMNS
from readmodels import table_definitions

WATCH_S = 0.1
MIB = 1 << 20

COPY_EVENTS = """
COPY (SELECT stream_id, topic, account_id, data FROM events ORDER BY position) TO STDOUT
"""


def bare_fold(url: str) -> float:
    """Return the events per second of COPY out, a fold of the accounts in a dict, and COPY in."""
    started = time.monotonic()
    accounts: dict[bytes, dict[str, Any]] = {}
    events = 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS read.bare")
        connection.execute(
            "CREATE TABLE read.bare (id uuid PRIMARY KEY, company text, status text, contacts int)"
        )
        with (
            connection.cursor() as cursor,
            cursor.copy(COPY_EVENTS) as copy,
        ):
            rest = b""
            for block in copy:
                lines = (rest + bytes(block)).split(b"\n")
                rest = lines.pop()
                events += len(lines)
                for line in lines:
                    _fold_line(accounts, line)
        with connection.cursor() as cursor, cursor.copy("COPY read.bare FROM STDIN") as copy:
            for key, row in accounts.items():
                copy.write_row((key.decode(), row["company"], row["status"], row["contacts"]))
    return events / (time.monotonic() - started)


def _fold_line(accounts: dict[bytes, dict[str, Any]], line: bytes) -> None:
    stream, topic, account, raw = line.split(b"\t")
    data = orjson.loads(raw)
    if topic == b"account.created":
        accounts[stream] = {**data["fields"], "contacts": 0}
    elif topic == b"account.status_changed":
        accounts[stream]["status"] = data["after"]
    elif topic == b"account.updated":
        for name, change in data["changes"].items():
            accounts[stream][name] = change["after"]
    elif topic == b"contact.created":
        accounts[account]["contacts"] += 1


def rebuild_all(url: str, workers: int) -> tuple[float, float]:
    """Rebuild all read tables. Return the seconds, and the MiB of the largest worker."""
    started = time.monotonic()

    def print_step(step: str, done: int, _total: int) -> None:
        print(f"    {time.monotonic() - started:7.1f} s  {step} ({done:,})", flush=True)

    with watch_memory() as sizes:
        Rebuild(url, table_definitions(), workers=workers, on_step=print_step).run()
        return time.monotonic() - started, max(sizes, default=0) / MIB


@contextmanager
def watch_memory() -> Iterator[list[int]]:
    """Sample the resident sets, in bytes, of the child processes that are started in the block.

    `getrusage` cannot be used, because on Linux a child inherits the peak of its parent.
    """
    sizes: list[int] = []
    stopped = threading.Event()
    this_process = psutil.Process()
    earlier = {each.pid for each in this_process.children()}

    def sample() -> None:
        while not stopped.wait(WATCH_S):
            for each in this_process.children():
                if each.pid not in earlier:
                    with suppress(psutil.Error):
                        sizes.append(each.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        stopped.set()
        thread.join()


def live_catch_up(url: str) -> float:
    """Return the seconds of the live engine from empty tables to the end of the log."""
    started = time.monotonic()
    ProjectionEngine(url, PROJECTIONS.values()).catch_up()
    return time.monotonic() - started


def fill_tables_alone(url: str, workers: int) -> float:
    """Return PostgreSQL's seconds to fill, count and index all read tables from existing rows.

    It is a lower bound for a rebuild: no event is read and nothing is folded.
    """
    shadows = [Shadow(*each) for each in sorted(table_definitions().items())]

    def fill(shadow: Shadow) -> None:
        with follow_connection(url, application_name="benchmark") as connection:
            for table in shadow.live.tables:
                name = f"{READ_SCHEMA}.{table.name}"
                rows = connection.execute(SELECT_COLUMNS, (name,)).fetchall()
                columns = ", ".join(column for column, _ in rows)
                connection.execute(
                    f"INSERT INTO {shadow.schema}.{table.name} ({columns})"
                    f" SELECT {columns} FROM {name}".encode()
                )
            shadow.finish(connection, 0)

    with follow_connection(url, application_name="benchmark") as connection:
        for shadow in shadows:
            shadow.prepare(connection)
        started = time.monotonic()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, shadows))
        seconds = time.monotonic() - started
        for shadow in shadows:
            shadow.drop(connection)
    return seconds


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stock-events", type=int, default=10_000)
    options = parser.parse_args()
    with database() as urls:
        started = time.monotonic()
        fill_log(urls.app, options.events)
        print(f"{options.events:,} events generated in {time.monotonic() - started:.0f} s")
        live_s = live_catch_up(urls.projector)
        print(f"live engine, from nothing      {options.events / live_s:10,.0f} events/s")
        bare = bare_fold(urls.projector)
        print(f"(i) bare fold, one table       {bare:10,.0f} events/s")
        print("rebuild, all read models:")
        seconds, memory_mib = rebuild_all(urls.projector, options.workers)
        ours = options.events / seconds
        per_core = ours / min(options.workers, os.cpu_count() or 1)
        alone = options.events / fill_tables_alone(urls.projector, options.workers)
        stock = stock_events_per_s(urls.owner, options.stock_events)
        print(f"    together                   {ours:10,.0f} events/s, {options.workers} workers")
        print(f"(ii) ProjectionRunner          {stock:10,.0f} events/s")
        print(f"(iii) PostgreSQL alone         {alone:10,.0f} events/s")
        print(f"ours per core / (i)            {per_core / bare:10.2f}   (aim 0.25)")
        print(f"ours / (ii)                    {ours / stock:10.1f}   (aim 40)")
        print(f"ours / (iii)                   {ours / alone:10.2f}")
        print(f"memory: the largest worker     {memory_mib:10.0f} MiB")


if __name__ == "__main__":
    main()
