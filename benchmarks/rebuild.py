"""How fast history becomes read tables again, all of them together.

    python -m benchmarks.rebuild [--events 1000000] [--workers 2] [--stock-events 10000]

In one run beside (i) a bare fold in Python of the same events into one table, COPY out and COPY in,
on one core, and (ii) the eventsourcing library's ProjectionRunner with an SQL upsert for one table.
Rates are events a second; memory is the largest resident set of any process, in MiB.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from typing import Any

import orjson
import psycopg

from benchmarks.generated import database, fill_log
from benchmarks.stock_projection import stock_events_per_s
from projections.engine.rebuild import Rebuild
from projections.engine.registry import PROJECTIONS
from projections.engine.runner import Engine
from readmodels import table_definitions

COPY_EVENTS = """
COPY (SELECT stream_id, topic, account_id, data FROM events ORDER BY position) TO STDOUT
"""


def bare_fold(url: str) -> float:
    """Events a second: COPY out, fold the accounts in a dict, COPY in."""
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


def rebuild_all(url: str, workers: int) -> float:
    """Seconds to rebuild every read model in one pass."""
    started = time.monotonic()

    def say(step: str, done: int, _total: int) -> None:
        print(f"    {time.monotonic() - started:7.1f} s  {step} ({done:,})", flush=True)

    Rebuild(url, table_definitions(), workers=workers, say=say).run()
    return time.monotonic() - started


def live_catch_up(url: str) -> float:
    """Seconds of the live engine from nothing to the end of the log."""
    started = time.monotonic()
    Engine(url, PROJECTIONS.values()).catch_up()
    return time.monotonic() - started


def peak_mib(who: int) -> float:
    """The largest resident set so far, in MiB."""
    return resource.getrusage(who).ru_maxrss / 1024


def main() -> None:
    """Run and print."""
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
        ours = options.events / rebuild_all(urls.projector, options.workers)
        per_core = ours / min(options.workers, os.cpu_count() or 1)
        stock = stock_events_per_s(urls.owner, options.stock_events)
        print(f"    together                   {ours:10,.0f} events/s, {options.workers} workers")
        print(f"(ii) ProjectionRunner          {stock:10,.0f} events/s")
        print(f"ours per core / (i)            {per_core / bare:10.2f}   (aim 0.25)")
        print(f"ours / (ii)                    {ours / stock:10.1f}   (aim 40)")
        print(f"memory: workers {peak_mib(resource.RUSAGE_CHILDREN):.0f} MiB")


if __name__ == "__main__":
    main()
