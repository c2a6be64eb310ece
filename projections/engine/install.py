"""Make the tables of projections: once, by the owner, with row-level security on every one."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from eventlog.connections import Connection
from projections.engine.registry import PROJECTIONS, version

READ_SCHEMA = "read"
INSTALL_LOCK = (67, 1)
"""Advisory lock: two installations at once wait for each other."""


def install(owner_url: str, definitions: Mapping[str, str]) -> list[str]:
    """Create what is missing; returns the names of the projections that are new.

    `definitions` holds the SQL that makes each projection's tables, by name of the projection.
    """
    with psycopg.connect(owner_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", INSTALL_LOCK)
        _make_schema(connection)
        known = {row[0] for row in connection.execute("SELECT name FROM projections")}
        new = [name for name in PROJECTIONS if name not in known]
        for name in new:
            create_tables(connection, READ_SCHEMA, definitions[name])
            connection.execute(
                "INSERT INTO projections (name, version) VALUES (%s, %s)",
                (name, version(name, definitions[name])),
            )
        return new


def create_tables(connection: Connection, schema: str, definition: str) -> None:
    """Run a table definition in the schema, and guard each table that it makes."""
    path = sql.SQL("SET LOCAL search_path = {}, public").format(sql.Identifier(schema))
    before = _tables(connection, schema)
    connection.execute(path)
    # Definitions name tables of other projections in function bodies before those exist.
    connection.execute("SET LOCAL check_function_bodies = off")
    connection.execute(definition.encode())
    connection.execute("SET LOCAL search_path = public")
    for table in sorted(_tables(connection, schema) - before):
        _guard(connection, sql.Identifier(schema, table))


def _make_schema(connection: Connection) -> None:
    schema = sql.Identifier(READ_SCHEMA)
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
    connection.execute(
        sql.SQL("GRANT USAGE ON SCHEMA {} TO annals_app, annals_projector").format(schema)
    )


def _tables(connection: Connection, schema: str) -> set[str]:
    rows = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)
    ).fetchall()
    return {row[0] for row in rows}


def _guard(connection: Connection, table: sql.Identifier) -> None:
    """Readers see one workspace, the projector all of them; neither owns the table.

    The owner may read everything: search functions, backup and comparison run as the owner.
    """
    for statement in (
        "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE {} FORCE ROW LEVEL SECURITY",
        """CREATE POLICY own_workspace ON {} FOR SELECT TO annals_app
           USING (workspace_id = current_workspace())""",
        "CREATE POLICY every_workspace ON {} TO annals_projector USING (true) WITH CHECK (true)",
        "CREATE POLICY owner_reads ON {} FOR SELECT TO CURRENT_USER USING (true)",
        "GRANT SELECT ON {} TO annals_app",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO annals_projector",
    ):
        connection.execute(sql.SQL(statement).format(table))
