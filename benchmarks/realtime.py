"""The latency of realtime: the time from an append until subscribers have received it.

    python -m benchmarks.realtime [--subscribers 1 1000] [--rate 20] [--seconds 10]

A writer appends at a steady rate. The API is a separate process, and another process has the
clients, which read server-sent events from raw sockets. The same run measures a lower bound: a
writer that commits and then notifies, and a process that listens. Times start at the return of the
append, on one monotonic clock, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg

from benchmarks.generated import WORKSPACE, database, free_port
from benchmarks.lag import report
from commands.keys import issue_key
from domain.account import Account
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.retries import poll_until
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime.composition import open_key_writing
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from server.cli.local.database import catch_up
from server.postgres.embedded import DatabaseUrls
from server.processes.serving import raise_open_files_limit
from server.processes.supervisor import is_healthy

WARM_UP_S = 1.0
SETTLE_S = 1.0
JOIN_S = 60.0
POLL_S = 0.05
CONNECTING_AT_ONCE = 50
SPAWN = multiprocessing.get_context("spawn")
SCOPE = Scope(UUID(WORKSPACE))
FIELDS = {"company": "Acme", "type": "customer"}

Receipts = dict[int, list[float]]
"""The times at which each position was received, one for each client."""


class Client(asyncio.Protocol):
    """A raw socket that reads server-sent events and records when each arrived."""

    def __init__(self, token: str, receipts: Receipts, opened: Callable[[], None]) -> None:
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}"
        self._request = f"GET /api/realtime HTTP/1.1\r\n{head}\r\n\r\n".encode()
        self._receipts = receipts
        self._opened = opened
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the stream."""
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Record the facts that are complete."""
        now = time.monotonic()
        *messages, self._rest = (self._rest + data).split(b"\n\n")
        for each in messages:
            if b"event: fact" in each:
                position = int(each.rpartition(b"\nid: ")[2])
                self._receipts.setdefault(position, []).append(now)
            elif b"event: open" in each:
                self._opened()


def run_clients(port: int, token: str, count: int, ready: Event, stop: Event, results: Any) -> None:
    """Run in the process of all clients."""
    import uvloop

    receipts: Receipts = {}
    raise_open_files_limit(count + 256)
    uvloop.run(follow(port, token, count, receipts, ready, stop))
    results.put(receipts)


async def follow(
    port: int, token: str, count: int, receipts: Receipts, ready: Event, stop: Event
) -> None:
    """Connect all clients, then read until `stop` is set."""
    loop = asyncio.get_running_loop()
    opened = 0

    def count_opened() -> None:
        nonlocal opened
        opened += 1

    for first in range(0, count, CONNECTING_AT_ONCE):
        wanted = min(count, first + CONNECTING_AT_ONCE)
        for _ in range(first, wanted):
            await loop.create_connection(
                lambda: Client(token, receipts, count_opened), "127.0.0.1", port
            )
        while opened < wanted:
            await asyncio.sleep(0.01)
    ready.set()
    await asyncio.to_thread(stop.wait)


def listen_only(url: str, ready: Event, stop: Event, results: Any) -> None:
    """Run in the process that only listens for NOTIFY."""
    receipts: Receipts = {}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN bare")
        ready.set()
        while not stop.is_set():
            for notify in connection.notifies(timeout=0.2, stop_after=1):
                receipts.setdefault(int(notify.payload), []).append(time.monotonic())
    results.put(receipts)


def measure(
    append: Callable[[], int],
    listen: Callable[..., None],
    arguments: tuple[Any, ...],
    rate: float,
    seconds: float,
) -> list[float]:
    """Return the milliseconds from the return of each append until each listener received it."""
    results: multiprocessing.Queue[Any] = SPAWN.Queue()
    ready, stop = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=listen, args=(*arguments, ready, stop, results), daemon=True)
    process.start()
    if not ready.wait(JOIN_S):
        raise TimeoutError("the listeners do not start")
    committed: dict[int, float] = {}
    started = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - started) < seconds + WARM_UP_S:
        position = append()
        if elapsed > WARM_UP_S:
            committed[position] = last_append.returned_at
        number += 1
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
    time.sleep(SETTLE_S)
    stop.set()
    receipts: Receipts = results.get(timeout=JOIN_S)
    process.join()
    return [
        1000 * (at - committed[position])
        for position, times in receipts.items()
        if position in committed
        for at in times
    ]


class LastAppend(threading.local):
    """The time at which this thread's last append returned."""

    returned_at = 0.0


last_append = LastAppend()


@contextmanager
def appending(app_url: str, after: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Give a function that appends one account, records the time, and calls `after`."""

    def committed() -> None:
        last_append.returned_at = time.monotonic()
        after()

    with write_pool(app_url, max_size=2) as pool:
        log = EventLog(pool, after_append=committed)

        def append() -> int:
            with log.scoped(SCOPE):
                at = datetime.now(UTC)
                return log.append(Account.create(uuid4(), SCOPE.workspace_id, FIELDS, at=at)) or 0

        yield append


def measure_annals(
    urls: DatabaseUrls, port: int, token: str, count: int, rate: float, seconds: float
) -> list[float]:
    """Measure the way through EventLog, Hinter, the API and sockets."""
    hinter = Hinter(urls.app)
    try:
        with appending(urls.app, hinter.hint) as append:
            return measure(append, run_clients, (port, token, count), rate, seconds)
    finally:
        hinter.close()


def measure_lower_bound(urls: DatabaseUrls, rate: float, seconds: float) -> list[float]:
    """Measure the same append followed by a NOTIFY from the same thread."""
    with (
        psycopg.connect(urls.app, autocommit=True) as notifier,
        appending(urls.app, lambda: None) as append,
    ):

        def append_and_notify() -> int:
            position = append()
            notifier.execute(f"NOTIFY bare, '{position}'".encode())
            return position

        return measure(append_and_notify, listen_only, (urls.app,), rate, seconds)


@contextmanager
def serving(urls: DatabaseUrls, subscribers: int) -> Iterator[tuple[int, str]]:
    """Run the API as a separate process; give its port and a token."""
    port = free_port()
    settings = Settings(
        owner_url=urls.owner, app_url=urls.app, projector_url=urls.projector, port=port
    )
    with open_key_writing(settings) as writing:
        given = {"name": "benchmark", "role": "admin"}
        token = issue_key(writing.commands, SCOPE, given).token
    catch_up(settings)
    environment = {
        **os.environ,
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PORT": str(port),
        "ANNALS_LOG_LEVEL": "warning",
        "ANNALS_REALTIME_SUBSCRIBERS_PER_KEY_MAX": str(subscribers),
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.Popen([sys.executable, "-m", "server.cli", "serve"], env=environment)
    try:
        if not poll_until(lambda: is_healthy(settings), JOIN_S, POLL_S):
            raise TimeoutError("the API does not answer")
        yield port, token
    finally:
        process.terminate()
        process.wait(JOIN_S)


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 1_000])
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    most = max(options.subscribers)
    with database() as urls, serving(urls, most) as (port, token):
        least = report(
            "bare NOTIFY after the commit",
            measure_lower_bound(urls, options.rate, options.seconds),
        )
        for count in options.subscribers:
            found = report(
                f"commit to client, {count} subscribers",
                measure_annals(urls, port, token, count, options.rate, options.seconds),
            )
            print(f"    / bare: p50 {found[0] / least[0]:.2f}, p99 {found[1] / least[1]:.2f}")


if __name__ == "__main__":
    main()
