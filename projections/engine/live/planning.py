"""Settings and statistics that give a projector's statements good query plans.

A batch is small compared with a table, and rows are found by their keys. The planner knows neither
how small a batch is nor anything about a table that was never analyzed, so by default it scans
whole tables and indexes for one row until autovacuum has analyzed them.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from eventlog.connections import Connection
from projections.changes import Table

ANALYZE_BYTES_MIN = 64 * 1024
"""Smaller tables are fast whatever the plan, and their statistics say little."""
ANALYZE_INTERVAL_S = 0.3
"""How often the engine looks for tables that have grown beyond that size."""

FORCE_INDEX_PLANS = """
SELECT set_config(name, value, false)
  FROM (VALUES ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'),
               ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off')) AS s(name, value)
"""
SELECT_NEVER_ANALYZED = """
SELECT relname FROM pg_class
 WHERE relnamespace = to_regnamespace(%s) AND relname = ANY(%s)
   AND reltuples < 0 AND pg_relation_size(oid) >= %s
"""


def force_index_plans(connection: Connection) -> None:
    """Have this connection plan each statement once, with index lookups by key."""
    connection.execute(FORCE_INDEX_PLANS)


def analyze_new_tables(connection: Connection, schema: str, tables: Iterable[Table]) -> None:
    """Analyze the tables that were never analyzed and have at least `ANALYZE_BYTES_MIN`.

    Autovacuum analyzes them later. Call it outside a transaction, as the owner of the tables.
    """
    names = [table.name for table in tables]
    rows = connection.execute(SELECT_NEVER_ANALYZED, (schema, names, ANALYZE_BYTES_MIN)).fetchall()
    for (name,) in rows:
        statement = sql.SQL("ANALYZE (SKIP_LOCKED) {}").format(sql.Identifier(schema, name))
        connection.execute(statement)
