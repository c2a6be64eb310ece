"""Lists, searches, details and the audit trail at scale, beside ideal SQL and a bare pass-through.

    python -m benchmarks.lists [--accounts 1000000] [--rounds 40] [--seconds 4]

fills the log by COPY in its own format, rebuilds all read tables, and asks in turn:

ours   the API's own statements, through its role, its pool and row-level security
ideal  SQL written by hand over one plain table that has all that the list shows, without other
       workspaces, row-level security or transactions

It prints the median and the highest time in milliseconds, the ratio of the medians, and the ratio
of the CPU of the two PostgreSQL processes. Then it searches three lists for the same terms, without
the ideal, which would displace all else from the caches: accounts, as many contacts, and a fifth as
many tasks. At the end it asks the API over HTTP, one worker and 16
connections, beside a server that passes ready JSON through.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg

from benchmarks.export import serving
from benchmarks.generated import METADATA, WORKSPACE, cpu_s, database
from benchmarks.passthrough import Load, load, passing_through
from commands.entities import EntityCommands
from commands.keys import issue_key
from domain.shared.text import folded
from eventlog.connections import write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.rebuild.runner import Rebuild
from readmodels import table_definitions
from readmodels.audit import AuditQuery, audit_page
from readmodels.details import detail
from readmodels.lists import LISTS, ListQuery, list_page
from readmodels.pool import AsyncConnection, ReadPool
from server.postgres.embedded import DatabaseUrls

START = datetime(2025, 1, 1, tzinfo=UTC)
MEMBERS = 20
SYLLABLES = [
    "ba",
    "den",
    "ver",
    "mol",
    "ti",
    "ran",
    "so",
    "lu",
    "ker",
    "po",
    "ni",
    "sta",
    "mar",
    "chi",
    "gro",
    "fen",
    "dal",
    "qui",
    "mex",
    "ul",
]
MADE_UP = [f"{a}{b}".capitalize() for a in SYLLABLES for b in SYLLABLES]
KNOWN = ("Acme", "Anderson", "Johnson", "Müller", "Globex", "Initech", "Soylent", "Hooli")
SUFFIXES = ("Inc", "Ltd", "GmbH", "AG", "Systems", "Partners", "Holdings", "Group")
FIRST_NAMES = (
    "Ada",
    "Grace",
    "Alan",
    "Edsger",
    "Barbara",
    "José",
    "Zoë",
    "Ken",
    "Frances",
    "Linus",
)
VERBS = ("Call", "Visit", "Write to")
TYPES = ("investor", "customer", "partner")
STATUSES = ("Lead", "Qualified", "Won", "Active", "Closed")
PRIORITIES = ("low", "medium", "high", "urgent")
TERMS = (
    *("acme", "son", "Inc", "systems", "müller", "muller", "grace", "anderson gr", "ver", "xylo"),
    *("an", "er", "zq", "qu", "ss", "12", "a", "x", "e", "é", "z", "7", "n s", "ß"),
)
"""Frequent, rare and absent; of one, two, and more letters."""
SEARCHED_LISTS = ("accounts", "contacts", "tasks")
BLOCK_EVENTS = 50_000
"""A transaction that writes events may take 15 seconds."""
WARM_UP_ROUNDS = 11
"""Statements are prepared at their sixth execution, and planned for all values at the eleventh."""
QUERY_MAX_S = 6.0
"""A query is repeated no longer than this."""
PASSTHROUGH_PORT = 8398
CONNECTIONS = 16

COPY_EVENTS = """
COPY events (workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
             occurred_at) FROM STDIN
"""
PLAIN = (
    """CREATE TABLE plain AS
    SELECT a.*, m.name AS assigned_to_name,
           a.company_folded || E'\\n' || coalesce(string_agg(c.name_folded, E'\\n'), '')
               AS all_texts
      FROM read.accounts AS a
      LEFT JOIN read.members AS m ON m.id = a.assigned_to
      LEFT JOIN read.contacts AS c ON c.account_id = a.id
     GROUP BY a.workspace_id, a.id, m.name""",
    "CREATE TABLE plain_contacts AS SELECT * FROM read.contacts",
    "ALTER TABLE plain ADD PRIMARY KEY (id)",
    "CREATE INDEX ON plain (created_at, id)",
    "CREATE INDEX ON plain (updated_at, id)",
    "CREATE INDEX ON plain (company_key, id)",
    "CREATE INDEX ON plain (status, created_at, id)",
    "CREATE INDEX ON plain (type, created_at, id)",
    "CREATE INDEX ON plain (priority, status, created_at, id)",
    "CREATE INDEX ON plain (assigned_to, created_at, id)",
    "CREATE INDEX ON plain USING gin (all_texts public.gin_trgm_ops)",
    "CREATE INDEX ON plain_contacts (account_id, created_at, id)",
    """CREATE TABLE plain_counts AS
    SELECT type, status, priority, assigned_to, count(*) AS n FROM plain GROUP BY 1, 2, 3, 4""",
    "VACUUM ANALYZE plain",
    "VACUUM ANALYZE plain_contacts",
    "ANALYZE plain_counts",
    "GRANT SELECT ON plain, plain_contacts, plain_counts TO annals_app",
)
CONTACTS = """, (SELECT coalesce(json_agg(c), '[]') FROM (
    SELECT id, name, email, phone, title, version FROM plain_contacts
     WHERE account_id = p.id ORDER BY created_at, id LIMIT 100) AS c) AS contacts"""
PAGE = """
SELECT json_agg(row_to_json(i))::text FROM (
    SELECT id, company, type, status, priority, next_action AS "nextAction",
           next_action_date AS "nextActionDate", check_size::text AS "checkSize",
           deal_value::text AS "dealValue", opportunity, contact_count AS "contactCount",
           task_count AS "taskCount", meeting_count AS "meetingCount", note_count AS "noteCount",
           open_opportunity_count AS "openOpportunityCount", assigned_to AS "assignedTo",
           assigned_to_name AS "assignedToName", custom_fields AS "customFields",
           created_at AS "createdAt", updated_at AS "updatedAt", version{contacts}
      FROM (SELECT * FROM plain WHERE {where} ORDER BY {order} LIMIT 50 OFFSET {offset}) AS p
     ORDER BY {order}) AS i
"""
COUNTED = "SELECT coalesce(sum(n), 0) FROM plain_counts AS p WHERE {where}"
COUNT = "SELECT count(*) FROM plain AS p WHERE {where}"
STATS = """
SELECT json_build_object(
    'byStatus', (SELECT json_object_agg(k, n) FROM (
        SELECT status AS k, sum(n) AS n FROM plain_counts GROUP BY 1) AS s),
    'byPriority', (SELECT json_object_agg(k, n) FROM (
        SELECT priority AS k, sum(n) AS n FROM plain_counts GROUP BY 1) AS s),
    'byType', (SELECT json_object_agg(k, n) FROM (
        SELECT type AS k, sum(n) AS n FROM plain_counts GROUP BY 1) AS s))::text
"""


@dataclass(frozen=True)
class Case:
    """A query: how the API asks it, and the ideal statements."""

    name: str
    ours: Callable[[ReadPool], Awaitable[object]]
    ideal: list[str]


@dataclass
class Taken:
    """Times in seconds, and CPU of the PostgreSQL process for one call, in seconds."""

    times: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def events(accounts: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the log: members, accounts, their contacts, and a task of every fifth."""
    rng = random.Random(1)
    for number in range(1, MEMBERS + 1):
        yield event(number, UUID(int=number), "member.created", None, {"name": f"Member {number}"})
    for number in range(accounts):
        account = _id(rng)
        yield event(number, account, "account.created", None, account_fields(rng))
        contact = contact_fields(rng)
        yield event(number, _id(rng), "contact.created", account, contact)
        if number % 5 == 0:
            yield event(number, _id(rng), "task.created", account, task_fields(number))


def account_fields(rng: random.Random) -> dict[str, Any]:
    """The fields of an account, whose company has a known word or two made-up ones."""
    word = rng.choice(KNOWN) if rng.random() < 0.01 else rng.choice(MADE_UP)
    return {
        "company": f"{word} {rng.choice(MADE_UP)} {rng.choice(SUFFIXES)}",
        "type": rng.choice(TYPES),
        "status": rng.choices(STATUSES, weights=(50, 20, 15, 14, 1))[0],
        "priority": rng.choices(PRIORITIES[:3], weights=(60, 30, 10))[0],
        "nextAction": "Call them back",
        "assignedTo": str(UUID(int=1 + min(rng.randrange(MEMBERS), rng.randrange(MEMBERS)))),
        "customFields": {"sector": rng.choice(MADE_UP), "employees": rng.randrange(10_000)},
    }


def contact_fields(rng: random.Random) -> dict[str, Any]:
    """The fields of a contact."""
    name = f"{rng.choice(FIRST_NAMES)} {rng.choice(MADE_UP)}"
    return {"name": name, "email": "a@example.com"}


def task_fields(number: int) -> dict[str, Any]:
    """The fields of a task, whose title names a company of made-up words."""
    company = f"{MADE_UP[number % 397]} {MADE_UP[number // 5 % 400]}"
    return {"title": f"{VERBS[number % len(VERBS)]} {company}", "status": "todo"}


def event(
    number: int, stream: UUID, topic: str, account: UUID | None, fields: dict[str, Any]
) -> tuple[Any, ...]:
    """A first event of a stream, as a row of the log."""
    data = orjson.dumps({"fields": fields}).decode()
    at = START + timedelta(seconds=number)
    return WORKSPACE, stream, 1, topic, account, data, METADATA, at


def _id(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)


def fill(urls: DatabaseUrls, accounts: int) -> str:
    """Fill the log and the read tables, and the plain ones; return a token."""
    started = time.monotonic()
    with write_pool(urls.owner) as pool:
        commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)
        scope = Scope(UUID(WORKSPACE))
        token = issue_key(commands, scope, {"name": "benchmark", "role": "admin"}).token
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        # COPY does not write to a table with row-level security.
        owner.execute("ALTER TABLE events NO FORCE ROW LEVEL SECURITY")
        source = events(accounts)
        while block := list(islice(source, BLOCK_EVENTS)):
            with owner.cursor() as cursor, cursor.copy(COPY_EVENTS.encode()) as copy:
                for row in block:
                    copy.write_row(row)
        owner.execute("ALTER TABLE events FORCE ROW LEVEL SECURITY")
        owner.execute("VACUUM ANALYZE events")
    print(f"{accounts:,} accounts, log filled in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    Rebuild(urls.projector, table_definitions(), replace_because="it is empty").run()
    print(f"read tables rebuilt in {time.monotonic() - started:.0f} s", flush=True)
    with psycopg.connect(urls.projector, autocommit=True) as projector:
        projector.execute("SET maintenance_work_mem = '256MB'")
        projector.execute("SET search_path = read, public")
        for statement in PLAIN:
            projector.execute(statement.encode())
        projector.execute("VACUUM ANALYZE")
    return token


def list_case(
    name: str, where: str = "true", order: str = "created_at DESC, id DESC", **options: Any
) -> Case:
    """A page of accounts. `where` and `order` are those of the ideal statement."""
    query = ListQuery(UUID(WORKSPACE), **options)

    async def ours(pool: ReadPool) -> object:
        async with pool.plain() as connection:
            return await list_page(connection, LISTS["accounts"], query)

    contacts = CONTACTS if query.include_contacts else ""
    offset = (query.page - 1) * query.page_size
    count = COUNT if query.search else COUNTED
    counted = "true" if query.cursor else where
    ideal = [
        PAGE.format(contacts=contacts, where=where, order=order, offset=offset),
        count.format(where=counted),
    ]
    return Case(name, ours, [*ideal, STATS] if query.include_stats else ideal)


async def cases(pool: ReadPool, busiest: str) -> list[Case]:
    """All queries that are measured."""
    workspace = UUID(WORKSPACE)
    query = ListQuery(workspace)
    async with pool.plain() as connection:
        first = await list_page(connection, LISTS["accounts"], query)
        last = orjson.loads(first.content)["items"][-1]
    after = f"(created_at, id) < ('{last['createdAt']}', '{last['id']}')"
    found = [
        list_case("page 1"),
        list_case("page 1 with stats", include_stats=True),
        list_case("page 1 without contacts", include_contacts=False),
        list_case("page 1,000 by number", page=1_000),
        list_case("page 2 by cursor", after, cursor=first.next_cursor),
        list_case("by company", order="company_key, id", sort_by="company", descending=False),
        list_case("by status", order="status DESC, created_at DESC, id DESC", sort_by="status"),
        list_case("by updatedAt", order="updated_at DESC, id DESC", sort_by="updated_at"),
        list_case("a status", "status = 'Lead'", filters={"status": "Lead"}),
        list_case("a rare status", "status = 'Closed'", filters={"status": "Closed"}),
        list_case("a status of none", "status = 'None'", filters={"status": "None"}),
        list_case("a priority of none", "priority = 'urgent'", filters={"priority": "urgent"}),
        list_case(
            "busiest assignee", f"assigned_to = '{busiest}'", filters={"assignedTo": busiest}
        ),
        list_case(
            "rare status and priority, by company",
            "status = 'Closed' AND priority = 'high'",
            "company_key, id",
            filters={"status": "Closed", "priority": "high"},
            sort_by="company",
            descending=False,
        ),
    ]
    for term in TERMS:
        where = f"all_texts LIKE '%{folded(term)}%'"
        found.append(list_case(f"search {term!r}", where, search=term))

    async def one(pool: ReadPool) -> object:
        async with pool.plain() as connection:
            return await detail(connection, "accounts", workspace, UUID(last["id"]))

    async def trail(pool: ReadPool) -> object:
        async with pool.log(workspace) as (connection, upto):
            return await audit_page(connection, AuditQuery(workspace), upto)

    item = PAGE.format(contacts=CONTACTS, where=f"id = '{last['id']}'", order="id", offset=0)
    page = """SELECT json_agg(e)::text FROM (
        SELECT * FROM events ORDER BY position DESC LIMIT 51) AS e"""
    return [*found, Case("detail", one, [item]), Case("audit trail", trail, [page])]


async def compare(urls: DatabaseUrls, rounds: int) -> None:
    """Ask each query in both ways in turn, and print the figures."""
    pool = ReadPool(urls.app, max_size=1)
    await pool.open()
    ideal = await psycopg.AsyncConnection.connect(urls.projector, autocommit=True)
    await ideal.execute("SET search_path = read, public")
    row = await (
        await ideal.execute(
            "SELECT assigned_to::text FROM plain_counts GROUP BY 1 ORDER BY sum(n) DESC LIMIT 1"
        )
    ).fetchone()
    assert row is not None
    print(f"{'':<38}{'ours p50':>9}{'max':>9}{'ideal p50':>10}{'max':>9}{'ratio':>7}{'CPU':>7}")
    for case in await cases(pool, row[0]):
        ours, best = await measure(pool, ideal, case, rounds)
        p50, best_p50 = (statistics.median(each.times) * 1000 for each in (ours, best))
        print(
            f"{case.name:<38}{p50:9.1f}{max(ours.times) * 1000:9.1f}{best_p50:10.1f}"
            f"{max(best.times) * 1000:9.1f}{p50 / best_p50:7.2f}{ours.cpu_s / best.cpu_s:7.2f}",
            flush=True,
        )
    await ideal.close()
    await pool.close()


async def measure(
    pool: ReadPool, ideal: AsyncConnection, case: Case, rounds: int
) -> tuple[Taken, Taken]:
    """Ask a query in both ways in turn, after some of each that are not counted."""
    async with pool.plain() as connection:
        pid = connection.info.backend_pid
    ours, best = Taken(), Taken()
    until = time.monotonic() + QUERY_MAX_S
    ways: list[tuple[Taken, Callable[[], Awaitable[object]], int]] = [
        (ours, partial(case.ours, pool), pid),
        (best, partial(_run, ideal, case.ideal), ideal.info.backend_pid),
    ]
    for number in range(-WARM_UP_ROUNDS, rounds):
        for taken, ask, process in ways:
            cpu, started = cpu_s(process), time.perf_counter()
            await ask()
            if number >= 0:
                taken.times.append(time.perf_counter() - started)
                taken.cpu_s += cpu_s(process) - cpu
        if number >= 0 and time.monotonic() > until:
            break
    return ours, best


async def search_all(urls: DatabaseUrls, rounds: int) -> None:
    """Search each of SEARCHED_LISTS for all terms in turn, and print the figures."""
    pool = ReadPool(urls.app, max_size=1)
    await pool.open()
    async with pool.plain() as connection:
        pid = connection.info.backend_pid
    for plural in SEARCHED_LISTS:
        takes = {term: Taken() for term in TERMS}
        for number in range(-WARM_UP_ROUNDS, rounds):
            for term, taken in takes.items():
                query = ListQuery(UUID(WORKSPACE), search=term)
                cpu, started = cpu_s(pid), time.perf_counter()
                async with pool.plain() as connection:
                    await list_page(connection, LISTS[plural], query)
                if number >= 0:
                    taken.times.append(time.perf_counter() - started)
                    taken.cpu_s += cpu_s(pid) - cpu
        _print_searches(plural, takes)
    await pool.close()


def _print_searches(plural: str, takes: dict[str, Taken]) -> None:
    print(f"{'search of ' + plural:<38}{'p50':>9}{'max':>9}{'CPU ms':>9}")
    for term, taken in takes.items():
        p50, cpu_ms = statistics.median(taken.times) * 1000, taken.cpu_s / len(taken.times) * 1000
        print(f"    {term!r:<34}{p50:9.1f}{max(taken.times) * 1000:9.1f}{cpu_ms:9.1f}")
    times = [each * 1000 for taken in takes.values() for each in taken.times]
    p50, p99 = (statistics.quantiles(times, n=100)[percent - 1] for percent in (50, 99))
    print(f"    all: p50 {p50:.1f}, p99 {p99:.1f}", flush=True)


async def _run(connection: AsyncConnection, statements: list[str]) -> None:
    for statement in statements:
        await (await connection.execute(statement.encode(), prepare=True)).fetchall()


def over_http(urls: DatabaseUrls, token: str, seconds: float) -> None:
    """Compare the API with pass-throughs of the ideal page and item, in two rounds."""
    headers = {"Authorization": f"Bearer {token}"}
    with psycopg.connect(urls.projector) as projector:
        row = projector.execute("SELECT id FROM read.plain ORDER BY created_at DESC").fetchone()
    assert row is not None
    order = "created_at DESC, id DESC"
    page, item = (
        PAGE.format(contacts=CONTACTS, where=where, order=order, offset=0).replace(
            "plain", "read.plain"
        )
        for where in ("true", f"id = '{row[0]}'")
    )
    with (
        serving(urls) as (url, process),
        passing_through(urls.projector, page, PASSTHROUGH_PORT) as (page_url, page_pid),
        passing_through(urls.projector, item, PASSTHROUGH_PORT - 1) as (item_url, item_pid),
    ):
        print(
            f"{'HTTP, 16 connections':<38}{'req/s':>9}{'of bare':>9}{'server µs':>11}{'PG µs':>9}"
        )
        ask = partial(load, database_url=urls.app, connections=CONNECTIONS, seconds=seconds)
        pages = ("/api/accounts", "/api/accounts?includeContacts=false", "/api/audit")
        for _ in range(2):
            for name, bare_url, pid, paths in (
                ("page", page_url, page_pid, pages),
                ("item", item_url, item_pid, (f"/api/accounts/{row[0]}",)),
            ):
                bare = ask(bare_url, "/", {}, pid=pid)
                _print(f"pass-through of the ideal {name}", bare, bare)
                for path in paths:
                    _print(path[:37], ask(url, path, headers, pid=process.pid), bare)


def _print(name: str, each: Load, bare: Load) -> None:
    ratio = each.requests_per_s / bare.requests_per_s
    print(
        f"{name:<38}{each.requests_per_s:9.0f}{ratio:9.2f}"
        f"{each.server_us:11.0f}{each.postgres_us:9.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with database() as urls:
        token = fill(urls, options.accounts)
        asyncio.run(compare(urls, options.rounds))
        asyncio.run(search_all(urls, options.rounds))
        over_http(urls, token, options.seconds)


if __name__ == "__main__":
    main()
