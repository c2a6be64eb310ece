"""Pages of the audit trail, read from the log, beside a table made for it; and what an append pays.

    python -m benchmarks.audit [--events 1000000] [--rounds 30]

log    the API's own pages, through the API's role and row-level security
table  a row for each event in a table with six indexes, joined to the log

Both are asked in turn, so that other load affects both. The append is measured as CPU of the server
process that appends single events, with the trigger and the indexes of the trail and without them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
import psycopg

from benchmarks.generated import APPEND, WORKSPACE, as_batch, cpu_s, database, generate
from benchmarks.generated import START as SINCE
from eventlog.reading.actions import ACTIONS_JSON
from eventlog.reading.positions import POSITION_MAX
from readmodels.audit import ITEM_SQL, AuditQuery, audit_page
from readmodels.pool import ReadPool
from runtime.composition import new_id

BLOCK_EVENTS = 5_000
APPENDED = 5_000
APPEND_ROUNDS = 5
RARE_ACTOR, BUSY_ACTOR = str(UUID(int=5_000)), str(UUID(int=1))
INDEXES = (
    "events_by_action",
    "events_by_actor",
    "events_by_key",
    "events_by_command",
    "events_by_time",
)

CREATE_TABLE = """
CREATE TABLE audit_table AS
SELECT workspace_id, position, split_part(topic, '.', 1) AS entity_type, stream_id AS entity_id,
       coalesce(%(actions)s::jsonb->>action_topic, split_part(action_topic, '.', 2)) AS action,
       actor_id, command_id, recorded_at
  FROM events
"""
INDEX_TABLE = (
    "ALTER TABLE audit_table ADD PRIMARY KEY (workspace_id, position)",
    "CREATE INDEX ON audit_table (workspace_id, entity_id, position)",
    "CREATE INDEX ON audit_table (workspace_id, entity_type, action, position)",
    "CREATE INDEX ON audit_table (workspace_id, actor_id, position)",
    "CREATE INDEX ON audit_table (workspace_id, recorded_at)",
    "CREATE INDEX ON audit_table (workspace_id, command_id, position)",
    "ALTER TABLE audit_table ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own ON audit_table TO annals_app USING (workspace_id = current_workspace())",
    "GRANT SELECT ON audit_table TO annals_app",
)
PAGE_OF_TABLE = f"""
WITH page AS MATERIALIZED (
    SELECT a.* FROM audit_table AS a WHERE a.workspace_id = %(workspace)s {{filters}}
     ORDER BY a.position DESC LIMIT %(limit)s + 1
)
SELECT json_agg({ITEM_SQL} ORDER BY a.position)::text
  FROM page AS a JOIN events AS e ON e.position = a.position AND e.workspace_id = a.workspace_id
"""


def metadata(rng: random.Random, actor: str) -> str:
    """Metadata as the API records it, of a command of its own."""
    command = str(new_id())
    return orjson.dumps(
        {
            "actor": {"type": "member", "id": actor, "name": "Ada Lovelace"},
            "keyId": actor,
            "command": "changeAccount",
            "commandId": command,
            "correlationId": command,
            "requestId": str(new_id()),
            "ip": "192.0.2.1",
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64)",
        }
    ).decode()


def fill(connection: psycopg.Connection[Any], events: int, rng: random.Random) -> None:
    """Append generated events, in blocks of many actors; one of them has 60 events."""
    source = generate(1)
    for block in range(-(-events // BLOCK_EVENTS)):
        actor = str(UUID(int=1 + block % 50))
        connection.execute(
            APPEND, (WORKSPACE, as_batch(islice(source, BLOCK_EVENTS), SINCE), metadata(rng, actor))
        )
    connection.execute(
        APPEND, (WORKSPACE, as_batch(islice(source, 60), SINCE), metadata(rng, RARE_ACTOR))
    )


def queries(since: Any, until: Any) -> dict[str, dict[str, Any]]:
    """The filters that are measured, by name."""
    return {
        "none": {},
        "kind": {"entity_type": "note"},
        "action": {"action": "create"},
        "action that is absent": {"action": "merge"},
        "kind and action": {"entity_type": "opportunity", "action": "status_change"},
        "busy actor": {"actor_id": BUSY_ACTOR},
        "rare actor": {"actor_id": RARE_ACTOR},
        "busy actor, kind and absent action": {
            "actor_id": BUSY_ACTOR,
            "entity_type": "account",
            "action": "delete",
        },
        "time": {"since": since, "until": until},
    }


async def measure(app_url: str, wanted: dict[str, dict[str, Any]], rounds: int) -> None:
    """Ask for each page in both ways in turn, and print the medians in milliseconds."""
    pool = ReadPool(app_url, max_size=1)
    await pool.open()
    workspace = UUID(WORKSPACE)
    print(f"{'filter':<36} {'log p50':>9} {'table p50':>9} {'ratio':>6}")
    for name, filters in wanted.items():
        conditions = {
            "since": "a.recorded_at >= %(since)s",
            "until": "a.recorded_at < %(until)s",
        }
        sql = "".join(f" AND {conditions.get(each, f'a.{each} = %({each})s')}" for each in filters)
        parameters = {"workspace": workspace, "limit": 50, "actions": ACTIONS_JSON, **filters}
        taken: tuple[list[float], list[float]] = [], []
        async with pool.workspace(workspace) as connection:
            for _ in range(rounds):
                query = AuditQuery(workspace, **filters)
                started = time.perf_counter()
                await audit_page(connection, query, POSITION_MAX)
                middle = time.perf_counter()
                await connection.execute(PAGE_OF_TABLE.format(filters=sql).encode(), parameters)
                taken[0].append(middle - started)
                taken[1].append(time.perf_counter() - middle)
        log, table = (statistics.median(each) * 1000 for each in taken)
        print(f"{name:<36} {log:9.2f} {table:9.2f} {log / table:6.2f}")
    await pool.close()


def append_cpu_us(connection: psycopg.Connection[Any], rng: random.Random) -> float:
    """CPU of the server process for an append of one event, in microseconds: the least round."""
    pid = connection.info.backend_pid
    source = generate(2 + rng.randrange(2**30))
    found = []
    for _ in range(APPEND_ROUNDS):
        batches = [
            (WORKSPACE, as_batch([event], SINCE), metadata(rng, BUSY_ACTOR))
            for event in islice(source, APPENDED)
        ]
        before = cpu_s(pid)
        for batch in batches:
            connection.execute(APPEND, batch, prepare=True)
        found.append((cpu_s(pid) - before) / APPENDED * 1e6)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rng = random.Random(1)
    with database() as urls, psycopg.connect(urls.owner, autocommit=True) as owner:
        with psycopg.connect(urls.app, autocommit=True) as app:
            fill(app, options.events, rng)
        with psycopg.connect(urls.owner) as reader:
            reader.execute("ALTER TABLE events NO FORCE ROW LEVEL SECURITY")
            reader.execute(CREATE_TABLE, {"actions": ACTIONS_JSON})
            middle = (
                "SELECT min(recorded_at) + (max(recorded_at) - min(recorded_at)) * %s FROM events"
            )
            since, until = (reader.execute(middle, (part,)).fetchone() for part in (0.50, 0.51))
            reader.execute("ALTER TABLE events FORCE ROW LEVEL SECURITY")
        for statement in INDEX_TABLE:
            owner.execute(statement.encode())
        owner.execute("ANALYZE audit_table")
        owner.execute("VACUUM ANALYZE events")
        assert since is not None
        assert until is not None
        asyncio.run(measure(urls.app, queries(since[0], until[0]), options.rounds))
        with psycopg.connect(urls.app, autocommit=True) as app:
            app.execute("SET synchronous_commit = off")
            whole = append_cpu_us(app, rng)
            owner.execute("ALTER TABLE events DISABLE TRIGGER events_are_described")
            owner.execute("ALTER TABLE events ALTER COLUMN action_topic DROP NOT NULL")
            for index in INDEXES:
                owner.execute(f"DROP INDEX {index}".encode())
            bare = append_cpu_us(app, rng)
        print(f"append of one event, CPU of the server: {whole:.1f} µs; without the columns and")
        print(f"indexes of the audit trail {bare:.1f} µs: ratio {whole / bare:.2f}")


if __name__ == "__main__":
    main()
