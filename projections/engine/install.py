"""Creation of the read tables, by the projector's role and with row-level security on each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from eventlog.connections import Connection
from eventlog.locks import INSTALL_LOCK
from projections.engine.meaning import sql_meaning
from projections.engine.names import previous_name, previous_schema, shadow_name, shadow_schema
from projections.engine.registry import PROJECTIONS, version

READ_SCHEMA = "read"

INDEXES = "-- indexes\n"
FUNCTIONS = "-- functions\n"

FUNCTION_PATH = "read, public, pg_temp"
# The functions of the read tables that others than the API's role may call, or that run as their
# owner and look for temporary objects first.
UNGUARDED_FUNCTIONS = """
SELECT oid::regprocedure::text, prosecdef FROM pg_proc
 WHERE pronamespace = %s::regnamespace
   AND (has_function_privilege('public', oid, 'EXECUTE')
        OR NOT has_function_privilege('annals_app', oid, 'EXECUTE')
        OR (prosecdef AND NOT 'search_path=' || %s = ANY (coalesce(proconfig, '{}'))))
 ORDER BY proname
"""
SELECT_FUNCTIONS = f"""
SELECT proname::text, prosrc, prosecdef AND '{{"search_path={FUNCTION_PATH}"}}' <> proconfig::text
  FROM pg_proc WHERE pronamespace = to_regnamespace('{READ_SCHEMA}') ORDER BY proname
"""
"""Name and body of each function of the read tables, and whether it finds objects elsewhere."""
FUNCTION = re.compile(r"FUNCTION (\w+)\(.*?AS \$\$(.*?)\$\$;", re.DOTALL)

RETIRED: Mapping[str, tuple[str, ...]] = {"audit": ("audit",)}
"""Projections that earlier versions had, with their tables."""
STATE_TABLES = (
    "projection_coverage",
    "projection_faults",
    "projection_offsets",
    "projection_parked",
)

UNGUARDED = """
SELECT tablename FROM pg_tables WHERE schemaname = %s AND NOT rowsecurity ORDER BY tablename
"""


@dataclass(frozen=True)
class Definition:
    """A table definition in three parts, because a rebuild fills tables before it indexes them."""

    tables: str
    indexes: str
    functions: str

    @classmethod
    def parse(cls, text: str) -> Definition:
        """Split at the lines `-- indexes` and `-- functions`."""
        rest, _, functions = text.partition(FUNCTIONS)
        tables, _, indexes = rest.partition(INDEXES)
        return cls(tables, indexes, functions)


def install(projector_url: str, definitions: Mapping[str, str]) -> list[str]:
    """Create missing tables. Return the names of the projections that were installed.

    definitions: the SQL that creates each projection's tables, by name.
    """
    with psycopg.connect(projector_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", INSTALL_LOCK)
        known = {row[0] for row in connection.execute("SELECT name FROM projections")}
        new = [name for name in PROJECTIONS if name not in known]
        for name in known & RETIRED.keys():
            _retire(connection, name, RETIRED[name])
        # Functions may read tables of other projections, so they are created last.
        for name in new:
            definition = Definition.parse(definitions[name])
            create_tables(connection, READ_SCHEMA, definition)
            guard_tables(connection, READ_SCHEMA)
            create_indexes(connection, READ_SCHEMA, definition)
            connection.execute(
                "INSERT INTO projections (name, version, wanted_version) VALUES (%s, %s, %s)",
                (name, *[version(name, definitions[name])] * 2),
            )
        create_functions(connection, [Definition.parse(definitions[name]) for name in new])
        return new


def _retire(connection: Connection, name: str, tables: Iterable[str]) -> None:
    """Drop the tables and the state of a projection that this version no longer has."""
    for table in tables:
        connection.execute(
            sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(READ_SCHEMA, table))
        )
    for schema in (shadow_schema(name), previous_schema(name)):
        drop_schema(connection, schema)
    for each in (name, shadow_name(name), previous_name(name)):
        delete_state(connection, each)


def drop_schema(connection: Connection, schema: str) -> None:
    """Drop a schema with its tables, if it exists."""
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def delete_state(connection: Connection, name: str) -> None:
    """Delete the checkpoint that is kept under this name, and what else is recorded there."""
    for table in STATE_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE projection = %s".encode(), (name,))
    connection.execute("DELETE FROM projections WHERE name = %s", (name,))


def create_tables(connection: Connection, schema: str, definition: Definition) -> None:
    """Create the tables in the schema. Guard them before any other role may use the schema."""
    _run(connection, schema, definition.tables)


def guard_tables(connection: Connection, schema: str) -> None:
    """Enable row-level security on the tables of the schema that lack it.

    Call it after they were filled, because COPY rejects tables that have it.
    """
    rows = connection.execute(UNGUARDED, (schema,)).fetchall()
    for (table,) in rows:
        _guard(connection, sql.Identifier(schema, table))


def create_indexes(connection: Connection, schema: str, definition: Definition) -> None:
    """Create primary keys and indexes."""
    _run(connection, schema, definition.indexes)


def create_functions(connection: Connection, definitions: Iterable[Definition]) -> None:
    """Create or replace the functions that read the live tables, and guard all of them."""
    for definition in definitions:
        _run(connection, READ_SCHEMA, definition.functions)
    guard_functions(connection)


def guard_functions(connection: Connection) -> None:
    """Let only the API's role call the functions that read the live tables, on those tables.

    A function that runs with the rights of the tables' owner looks for temporary objects last, so
    that its caller cannot put one in the place of a table. Functions that an earlier version
    created are corrected.
    """
    rows = connection.execute(UNGUARDED_FUNCTIONS, (READ_SCHEMA, FUNCTION_PATH)).fetchall()
    if rows:
        connection.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    for function, is_definer in rows:
        statements = [
            f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC",
            f"GRANT EXECUTE ON FUNCTION {function} TO annals_app",
        ]
        if is_definer:
            statements.append(f"ALTER FUNCTION {function} SET search_path = {FUNCTION_PATH}")
        for statement in statements:
            connection.execute(statement.encode())


def changed_functions(
    found: Iterable[tuple[str, str, bool]], definitions: Iterable[str]
) -> list[str]:
    """What differs, in words, in the functions of the read tables.

    found: the rows of SELECT_FUNCTIONS. definitions: those of all projections, which created them.
    """
    wanted = {
        name: sql_meaning(body)
        for definition in definitions
        for name, body in FUNCTION.findall(Definition.parse(definition).functions)
    }
    rows = list(found)
    missing = sorted(wanted.keys() - {row[0] for row in rows})
    different = [
        name for name, body, is_misled in rows if is_misled or wanted.get(name) != sql_meaning(body)
    ]
    return [
        *(f"lacks function {READ_SCHEMA}.{name}" for name in missing),
        *(f"has another function {READ_SCHEMA}.{name}" for name in different),
    ]


def _run(connection: Connection, schema: str, statements: str) -> None:
    if not statements.strip():
        return
    path = sql.SQL("SET LOCAL search_path = {}, public").format(sql.Identifier(schema))
    connection.execute(path)
    connection.execute(statements.encode())
    connection.execute("SET LOCAL search_path = public")


def _guard(connection: Connection, table: sql.Identifier) -> None:
    """Let readers see one workspace, and the projector, which owns the table, all of them."""
    for statement in (
        "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE {} FORCE ROW LEVEL SECURITY",
        """CREATE POLICY own_workspace ON {} FOR SELECT TO annals_app
           USING (workspace_id = current_workspace())""",
        "CREATE POLICY every_workspace ON {} TO annals_projector USING (true) WITH CHECK (true)",
        "GRANT SELECT ON {} TO annals_app",
    ):
        connection.execute(sql.SQL(statement).format(table))
