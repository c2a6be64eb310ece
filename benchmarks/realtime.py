"""From commit to client: how long after an append those who follow it have heard of it.

    python -m benchmarks.realtime [--subscribers 1 1000] [--rate 20] [--seconds 10]

A writer appends at a steady rate; the API is a process of its own, and so are the clients, which
hold raw sockets and read server-sent events. Beside it, in the same run, the least there is: a
writer that commits and then notifies, and a process that hears it. All from the return of the
append, on one monotonic clock. Milliseconds.
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

from benchmarks.generated import WORKSPACE, database
from benchmarks.lag import report
from commands.keys import issue_key
from domain.account import Account
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime.composition import open_writing
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from server.cli.local.database import catch_up
from server.postgres.embedded import DatabaseUrls
from server.processes.serving import raise_open_files_limit
from server.processes.supervisor import is_healthy

WARM_UP_S = 1.0
SETTLE_S = 1.0
JOIN_S = 60.0
PORT = 8399
CONNECTING_AT_ONCE = 50
SPAWN = multiprocessing.get_context("spawn")
SCOPE = Scope(UUID(WORKSPACE))
FIELDS = {"company": "Acme", "type": "customer"}

Heard = dict[int, list[float]]
"""When each position was heard of, by each who heard."""


class Client(asyncio.Protocol):
    """A raw socket that reads server-sent events and notes when each came."""

    def __init__(self, token: str, heard: Heard, opened: Callable[[], None]) -> None:
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}"
        self._request = f"GET /api/realtime HTTP/1.1\r\n{head}\r\n\r\n".encode()
        self._heard = heard
        self._opened = opened
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the facts that are whole now."""
        now = time.monotonic()
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        for each in whole:
            if b"event: fact" in each:
                position = int(each.rpartition(b"\nid: ")[2])
                self._heard.setdefault(position, []).append(now)
            elif b"event: open" in each:
                self._opened()


def clients(token: str, count: int, ready: Event, stop: Event, results: Any) -> None:
    """The process of all clients."""
    import uvloop

    heard: Heard = {}
    raise_open_files_limit(count + 256)
    uvloop.run(follow(token, count, heard, ready, stop))
    results.put(heard)


async def follow(token: str, count: int, heard: Heard, ready: Event, stop: Event) -> None:
    """Connect all of them, then read until told to stop."""
    loop = asyncio.get_running_loop()
    opened = 0

    def one_more() -> None:
        nonlocal opened
        opened += 1

    for first in range(0, count, CONNECTING_AT_ONCE):
        wanted = min(count, first + CONNECTING_AT_ONCE)
        for _ in range(first, wanted):
            await loop.create_connection(lambda: Client(token, heard, one_more), "127.0.0.1", PORT)
        while opened < wanted:
            await asyncio.sleep(0.01)
    ready.set()
    await asyncio.to_thread(stop.wait)


def bare_listen(url: str, ready: Event, stop: Event, results: Any) -> None:
    """The process that hears a NOTIFY, and nothing else."""
    heard: Heard = {}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN bare")
        ready.set()
        while not stop.is_set():
            for notify in connection.notifies(timeout=0.2, stop_after=1):
                heard.setdefault(int(notify.payload), []).append(time.monotonic())
    results.put(heard)


def measure(
    append: Callable[[], int],
    listen: Callable[..., None],
    arguments: tuple[Any, ...],
    rate: float,
    seconds: float,
) -> list[float]:
    """Milliseconds from each append's return until each listener heard of it."""
    results: multiprocessing.Queue[Any] = SPAWN.Queue()
    ready, stop = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=listen, args=(*arguments, ready, stop, results), daemon=True)
    process.start()
    if not ready.wait(JOIN_S):
        raise TimeoutError("those who listen do not begin")
    committed: dict[int, float] = {}
    started = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - started) < seconds + WARM_UP_S:
        position = append()
        if elapsed > WARM_UP_S:
            committed[position] = returned.at
        number += 1
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
    time.sleep(SETTLE_S)
    stop.set()
    heard: Heard = results.get(timeout=JOIN_S)
    process.join()
    return [
        1000 * (at - committed[each])
        for each, ats in heard.items()
        if each in committed
        for at in ats
    ]


class Returned(threading.local):
    """When the last append returned."""

    at = 0.0


returned = Returned()


@contextmanager
def appending(app_url: str, after: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Appends one account; when it was committed is noted before `after` is called."""

    def committed() -> None:
        returned.at = time.monotonic()
        after()

    with write_pool(app_url, max_size=2) as pool:
        log = EventLog(pool, after_append=committed)

        def append() -> int:
            with log.scoped(SCOPE):
                at = datetime.now(UTC)
                return log.append(Account.create(uuid4(), SCOPE.workspace_id, FIELDS, at=at)) or 0

        yield append


def ours(urls: DatabaseUrls, token: str, count: int, rate: float, seconds: float) -> list[float]:
    """Through EventLog, Hinter, the API and sockets."""
    hinter = Hinter(urls.app)
    try:
        with appending(urls.app, hinter.hint) as append:
            return measure(append, clients, (token, count), rate, seconds)
    finally:
        hinter.close()


def bare(urls: DatabaseUrls, rate: float, seconds: float) -> list[float]:
    """The same append, and then a NOTIFY by a connection that waits for it."""
    with (
        psycopg.connect(urls.app, autocommit=True) as notifier,
        appending(urls.app, lambda: None) as append,
    ):

        def append_and_notify() -> int:
            position = append()
            notifier.execute(f"NOTIFY bare, '{position}'".encode())
            return position

        return measure(append_and_notify, bare_listen, (urls.app,), rate, seconds)


@contextmanager
def serving(urls: DatabaseUrls, subscribers: int) -> Iterator[str]:
    """The API as a process of its own; gives a token."""
    settings = Settings(
        owner_url=urls.owner, app_url=urls.app, projector_url=urls.projector, port=PORT
    )
    with open_writing(settings) as writing:
        given = {"name": "benchmark", "role": "admin"}
        token = issue_key(writing.commands, SCOPE, given).token
    catch_up(settings)
    environment = {
        **os.environ,
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PORT": str(PORT),
        "ANNALS_LOG_LEVEL": "warning",
        "ANNALS_REALTIME_SUBSCRIBERS_PER_KEY_MAX": str(subscribers),
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.Popen([sys.executable, "-m", "server.cli", "serve"], env=environment)
    try:
        until = time.monotonic() + JOIN_S
        while not is_healthy(settings):
            if time.monotonic() > until:
                raise TimeoutError("the API does not answer")
            time.sleep(0.05)
        yield token
    finally:
        process.terminate()
        process.wait(JOIN_S)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 1_000])
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    most = max(options.subscribers)
    with database() as urls, serving(urls, most) as token:
        least = report("bare NOTIFY after the commit", bare(urls, options.rate, options.seconds))
        for count in options.subscribers:
            found = report(
                f"commit to client, {count} subscribers",
                ours(urls, token, count, options.rate, options.seconds),
            )
            print(f"    / bare: p50 {found[0] / least[0]:.2f}, p99 {found[1] / least[1]:.2f}")


if __name__ == "__main__":
    main()
