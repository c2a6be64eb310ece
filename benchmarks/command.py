"""Commands over HTTP beside an audited CRUD service, and what a command spends where.

    python -m benchmarks.command [--seconds 3] [--rounds 3] [--connections 16]

Each round asks one worker of the API and one of the CRUD service (benchmarks/crud.py) in turn: a
PATCH of one of 500 accounts, and a POST of a new one. Every PATCH changes the account. It prints
requests per second, the ratio to the CRUD service, and the CPU of server and PostgreSQL for one
request. Then it creates accounts in this process without HTTP, as many at once: by commands that
share transactions, by commands in threads, and by plain inserts of the same bytes in threads. In
the end it runs commands one after the other: CPU of this process and of PostgreSQL for a command
and its parts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import orjson
import psycopg

from benchmarks.append import CREATE_RAW_TABLE, INSERT_RAW
from benchmarks.crud import CREATE_TABLES
from benchmarks.export import serving
from benchmarks.generated import WORKSPACE, cpu_s, database
from benchmarks.passthrough import Load, message, running, send_all
from commands.committing.committer import Committer
from commands.entities import EntityCommands
from commands.keys import issue_key
from domain.account import Account
from eventlog.connections import write_pool
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from eventlog.store.shared import SharedTransactions
from projections.engine.rebuild.runner import Rebuild
from readmodels import table_definitions
from server.postgres.embedded import DatabaseUrls

PORT = 8397
ACCOUNTS = 500
PARTS_COUNT = 1_000
INSERT_RAW_ROW = INSERT_RAW.format(rows="(%s, %s, %s, %s, %s, %s, %s, %s)").encode()
ACCOUNT = {
    "company": "Acme Corporation",
    "type": "investor",
    "status": "active",
    "priority": "high",
    "customFields": {"sector": "technology", "region": "emea"},
}
JSON = {"Content-Type": "application/json"}
SCOPE = Scope(
    UUID(WORKSPACE),
    Actor("member", str(UUID(int=2)), "Ada Lovelace"),
    command="changeAccount",
    command_id=str(UUID(int=3)),
    request_id=str(UUID(int=4)),
    ip="192.0.2.1",
    user_agent="Mozilla/5.0 (X11; Linux x86_64)",
)


def crud_account() -> bytes:
    return orjson.dumps(
        {"custom_fields" if k == "customFields" else k: v for k, v in ACCOUNT.items()}
    )


def create_accounts(url: str, path: str, headers: dict[str, str], body: bytes) -> list[str]:
    """Create the accounts that are changed; return their ids."""
    with httpx.Client(base_url=url, headers=headers) as client:
        found = [client.post(path, content=body).raise_for_status() for _ in range(ACCOUNTS)]
        return [each.json()["id"] for each in found]


def patches(
    url: str, path: str, headers: dict[str, str], ids: list[str], field: str
) -> Iterator[bytes]:
    """Requests that change accounts in random order."""
    rng = random.Random(1)
    for number in itertools.count():
        body = orjson.dumps({field: f"Call them back, {number}"})
        yield message(url, "PATCH", f"{path}/{rng.choice(ids)}", headers, body)


def over_http(urls: DatabaseUrls, token: str, options: argparse.Namespace) -> None:
    ours = {**JSON, "Authorization": f"Bearer {token}"}
    with serving(urls) as (url, process), running("benchmarks.crud", urls.app, PORT) as crud:
        crud_url, crud_pid = crud
        body, crud_body = orjson.dumps(ACCOUNT), crud_account()
        ids = create_accounts(url, "/api/accounts", ours, body)
        crud_ids = create_accounts(crud_url, "/accounts", JSON, crud_body)
        asked: dict[str, tuple[str, Iterator[bytes], int]] = {
            "PATCH": (
                url,
                patches(url, "/api/accounts", ours, ids, "nextAction"),
                process.pid,
            ),
            "PATCH of CRUD": (
                crud_url,
                patches(crud_url, "/accounts", JSON, crud_ids, "next_action"),
                crud_pid,
            ),
            "POST": (
                url,
                itertools.repeat(message(url, "POST", "/api/accounts", ours, body)),
                process.pid,
            ),
            "POST of CRUD": (
                crud_url,
                itertools.repeat(message(crud_url, "POST", "/accounts", JSON, crud_body)),
                crud_pid,
            ),
        }
        found: dict[str, list[Load]] = {name: [] for name in asked}
        for _ in range(options.rounds):
            for name, (base, messages, pid) in asked.items():
                found[name].append(
                    send_all(
                        base,
                        messages,
                        pid=pid,
                        database_url=urls.app,
                        connections=options.connections,
                        seconds=options.seconds,
                    )
                )
    print(f"{'HTTP':<24}{'req/s':>9}{'of CRUD':>9}{'server µs':>11}{'PG µs':>9}")
    for name, loads in found.items():
        reference = found[name if name.endswith("CRUD") else f"{name} of CRUD"]
        ratios = [
            one.requests_per_s / other.requests_per_s
            for one, other in zip(loads, reference, strict=True)
        ]
        print(
            f"{name:<24}{statistics.median(each.requests_per_s for each in loads):9.0f}"
            f"{statistics.median(ratios):9.2f}"
            f"{statistics.median(each.server_us for each in loads):11.0f}"
            f"{statistics.median(each.postgres_us for each in loads):9.0f}",
            flush=True,
        )


def together(urls: DatabaseUrls, at_once: int, seconds: float) -> float:
    """Commands per second of the committer."""

    async def run(log: EventLog) -> int:
        transactions = SharedTransactions(log, urls.app)
        await transactions.open()
        committer = Committer(log, transactions, window_s=1)
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
        end, done = time.perf_counter() + seconds, 0

        async def execute() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await committer.run(SCOPE, commands.creating(UUID(WORKSPACE), Account, ACCOUNT))
                done += 1

        await asyncio.gather(*(execute() for _ in range(at_once)))
        await committer.close()
        await transactions.close()
        return done

    with write_pool(urls.app, max_size=1) as pool:
        return asyncio.run(run(EventLog(pool))) / seconds


def in_threads(act: Callable[[], object], at_once: int, seconds: float) -> float:
    """Calls per second."""
    end = time.perf_counter() + seconds

    def call(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            act()
            done += 1
        return done

    with ThreadPoolExecutor(at_once) as threads:
        return sum(threads.map(call, range(at_once))) / seconds


def at_once(urls: DatabaseUrls, options: argparse.Namespace) -> None:
    """Compare commands of one process that arrive together with plain inserts."""
    number, seconds = options.connections, options.seconds
    data = orjson.dumps({"fields": ACCOUNT}).decode()
    metadata = orjson.dumps(SCOPE.metadata()).decode()
    found: dict[str, list[float]] = {"share transactions": [], "in threads": [], "inserts": []}
    with write_pool(urls.app, max_size=number) as pool:
        commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)

        def create() -> None:
            commands.create(SCOPE, Account, ACCOUNT)

        def insert() -> None:
            now = datetime.now(UTC)
            row = [WORKSPACE, uuid4(), 1, "account.created", None, data, metadata, now]
            with pool.connection() as connection:
                connection.execute(INSERT_RAW_ROW, row, prepare=True).fetchall()

        for _ in range(options.rounds):
            found["share transactions"].append(together(urls, number, seconds))
            found["in threads"].append(in_threads(create, number, seconds))
            found["inserts"].append(in_threads(insert, number, seconds))
    print(f"{f'{number} at once':<24}{'/s':>9}{'of inserts':>12}")
    for name, rates in found.items():
        ratios = [one / other for one, other in zip(rates, found["inserts"], strict=True)]
        print(f"{name:<24}{statistics.median(rates):9.0f}{statistics.median(ratios):12.2f}")


class Part:
    """The CPU of a part of a command, in seconds: of this process and of PostgreSQL."""

    def __init__(self, name: str, server_pid: int) -> None:
        self.name = name
        self._server_pid = server_pid
        self._client_s: list[float] = []
        self._server_s: list[float] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure a block."""
        client, server = time.thread_time(), cpu_s(self._server_pid)
        yield
        self._client_s.append(time.thread_time() - client)
        self._server_s.append(cpu_s(self._server_pid) - server)

    def print(self) -> None:
        """Print the medians."""
        client, server = (
            statistics.median(each) * 1e6 for each in (self._client_s, self._server_s)
        )
        print(f"{self.name:<24}{client:11.0f}{server:9.0f}", flush=True)


def in_parts(urls: DatabaseUrls) -> None:
    """Measure commands and their parts without HTTP, one after the other."""
    with write_pool(urls.app, max_size=1) as pool:
        with pool.connection() as connection:
            pid = connection.info.backend_pid
        log = EventLog(pool)
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
        entity_id = uuid4()
        commands.create(SCOPE, Account, ACCOUNT, entity_id=entity_id)
        short = ("revise", "load", "decide", "append", "create")
        parts = {name: Part(name, pid) for name in short}

        def next_action(number: int) -> Callable[..., dict[str, object]]:
            return lambda values: {**values, "nextAction": f"Call them back, {number}"}

        for number in range(PARTS_COUNT):
            if number % 5 == 0:  # the stream stays short
                entity_id = commands.create(SCOPE, Account, ACCOUNT).entity.id
            with parts["revise"].measured():
                commands.revise(SCOPE, Account, entity_id, next_action(number))
            with log.scoped(SCOPE):
                with parts["load"].measured():
                    account = log.load_many(Account, [entity_id])[entity_id]
                with parts["decide"].measured():
                    account.revise(next_action(-number)(account.values), at=datetime.now(UTC))
                with parts["append"].measured():
                    log.append(account)
            with parts["create"].measured():
                commands.create(SCOPE, Account, ACCOUNT)
        print(f"{'without HTTP':<24}{'client µs':>11}{'PG µs':>9}")
        for each in parts.values():
            each.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    os.environ["ANNALS_RATE_WRITES_PER_MINUTE"] = "0"  # no limit
    with database() as urls:
        with psycopg.connect(urls.owner, autocommit=True) as owner:
            owner.execute(CREATE_TABLES.encode())
            owner.execute(CREATE_RAW_TABLE)
            owner.execute("GRANT SELECT, INSERT ON raw_events TO annals_app")
        with write_pool(urls.owner) as pool:
            commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)
            scope = Scope(UUID(WORKSPACE))
            token = issue_key(commands, scope, {"name": "benchmark", "role": "admin"}).token
        # Keys are found in a read table.
        Rebuild(urls.projector, table_definitions(), replace_because="it is empty").run()
        over_http(urls, token, options)
        at_once(urls, options)
        in_parts(urls)


if __name__ == "__main__":
    main()
