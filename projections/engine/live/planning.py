"""How PostgreSQL plans what a projector does.

A batch is small beside a table, and rows are found by their keys. The planner knows neither how
small, nor, of a table that was never analyzed, anything at all: left to itself it reads whole
tables and indexes for one row, until autovacuum comes by.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from eventlog.connections import Connection
from projections.changes import Table

ANALYZE_BYTES_MIN = 64 * 1024
"""A table that is smaller is read in no time whatever the plan, and tells little about itself."""
ANALYZE_INTERVAL_S = 0.3
"""How often is looked for tables that became worth it."""

PLAN_BY_KEYS = """
SELECT set_config(name, value, false)
  FROM (VALUES ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'),
               ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off')) AS s(name, value)
"""
SELECT_UNKNOWN = """
SELECT relname FROM pg_class
 WHERE relnamespace = to_regnamespace(%s) AND relname = ANY(%s)
   AND reltuples < 0 AND pg_relation_size(oid) >= %s
"""


def force_index_plans(connection: Connection) -> None:
    """Statements of this connection are planned once, and look for rows by keys, one by one."""
    connection.execute(PLAN_BY_KEYS)


def analyze_new_tables(connection: Connection, schema: str, tables: Iterable[Table]) -> None:
    """Analyze those of the tables that nobody did yet and that are worth it.

    Later it is autovacuum's. Outside of a transaction, as the owner of the tables.
    """
    names = [table.name for table in tables]
    unknown = connection.execute(SELECT_UNKNOWN, (schema, names, ANALYZE_BYTES_MIN)).fetchall()
    for (name,) in unknown:
        statement = sql.SQL("ANALYZE (SKIP_LOCKED) {}").format(sql.Identifier(schema, name))
        connection.execute(statement)
