"""The database and the roles that Annals' processes connect as, on any PostgreSQL server."""

from collections.abc import Container, Mapping

import psycopg
from psycopg import sql

from eventlog.locks import ROLES_LOCK

DATABASE_OWNER = "annals_owner"
DATABASE_USERS = ("annals_app", "annals_projector", "annals_sender")
ROLES = (DATABASE_OWNER, *DATABASE_USERS)


def prepare_roles_and_database(
    superuser_url: str, name: str, passwords: Mapping[str, str], template: str = "template0"
) -> None:
    """Create the database and its roles if they are missing.

    annals_owner owns the database and may create roles, annals_projector creates the read tables,
    annals_app and annals_sender own nothing, and other roles have no access. docs/database-roles.md
    has the rights of each. `passwords` are by role and are set at every call; roles without one are
    not changed. A `template` other than template0 is copied with its tables and must have no open
    connections. Raises psycopg.Error.
    """
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        # Held until the connection closes, so that two callers do not both find a role missing.
        connection.execute("SELECT pg_advisory_lock(%s, %s)", ROLES_LOCK)
        for role in ROLES:
            if role in passwords:
                _prepare_role(connection, role, passwords[role])
        found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
        if found is None:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} ENCODING 'UTF8'").format(
                    sql.Identifier(name), sql.Identifier(DATABASE_OWNER), sql.Identifier(template)
                )
            )
        _restrict_database(connection, name, passwords)
    with psycopg.connect(superuser_url, dbname=name, autocommit=True) as connection:
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def _prepare_role(connection: psycopg.Connection, role: str, password: str) -> None:
    found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    if found is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    rights = "CREATEROLE" if role == DATABASE_OWNER else "NOCREATEROLE"
    connection.execute(
        sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS {} PASSWORD {}").format(
            sql.Identifier(role), sql.SQL(rights), sql.Literal(password)
        )
    )


def _restrict_database(connection: psycopg.Connection, name: str, roles: Container[str]) -> None:
    database = sql.Identifier(name)
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    for role in filter(roles.__contains__, DATABASE_USERS):
        # Without TEMPORARY: a temporary object could take the place of one that a function of
        # another role looks for.
        for statement in (
            "GRANT CONNECT ON DATABASE {} TO {}",
            "REVOKE TEMPORARY ON DATABASE {} FROM {}",
        ):
            connection.execute(sql.SQL(statement).format(database, sql.Identifier(role)))
    # A rebuild creates its tables in a separate schema beside the live tables.
    connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO annals_projector").format(database))
    # By default, PostgreSQL looks into a schema with the name of the connected role first. The
    # projector could create one for the superuser or for annals_owner.
    connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = public").format(database))
