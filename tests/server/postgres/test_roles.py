"""What each role of the database may do, and what an attacker with its password may not.

The attack: a caller makes a temporary object with the name of a table that a function of another
role reads, so that the function calls the attacker's code with the rights of its owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from commands.entities import EntityCommands
from domain.account import Account
from domain.appointment import Appointment
from domain.member import Member
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.install import guard_functions, install
from readmodels import table_definitions
from runtime.settings import REPOSITORY
from tests.support.databases import Urls
from tests.support.rights import (
    ROLES,
    as_table,
    careless_functions,
    rights_in_catalogue,
    rights_in_document,
)

DOCUMENT = REPOSITORY / "docs" / "database-roles.md"
REFUSED = psycopg.errors.InsufficientPrivilege
STOLEN = "the function ran as "
DEFINERS = """
SELECT p.oid::regproc::text, p.proowner::regrole::text,
       array(SELECT t::regtype::text FROM unnest(p.proargtypes) AS t)
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname IN ('public', 'read') AND p.prosecdef
   AND has_function_privilege(current_user, p.oid, 'EXECUTE')
 ORDER BY 1
"""
RELATIONS = """
SELECT DISTINCT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('public', 'read') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
ARGUMENTS = {
    "bigint": "0",
    "integer": "3600",
    "text": "'accounts'",
    "text[]": "'{accounts}'",
    "double precision": "1",
    "boolean": "true",
    "date": "now()",
}


@contextmanager
def connected_as(role: str, urls: Urls) -> Iterator[Connection]:
    """Connect as one of the roles of processes."""
    url = {"annals_app": urls.app, "annals_projector": urls.projector, "annals_sender": urls.sender}
    with psycopg.connect(url[role], autocommit=True) as connection:
        yield connection


def allow_temporary(database: Connection, role: str) -> None:
    """Give the role the right that it lacks, as if the database had been set up by other means."""
    (name,) = database.execute("SELECT current_database()").fetchone() or ("",)
    database.execute(
        sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(
            sql.Identifier(name), sql.Identifier(role)
        )
    )


def hide_tables(connection: Connection) -> None:
    """Make a temporary view for each table, whose reader calls the attacker's function."""
    connection.execute(
        f"""CREATE FUNCTION pg_temp.steal() RETURNS uuid LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION '{STOLEN}%', current_user; END $$"""
    )
    connection.execute("GRANT EXECUTE ON FUNCTION pg_temp.steal TO PUBLIC")
    for (name,) in connection.execute(RELATIONS).fetchall():
        columns = connection.execute(
            """SELECT DISTINCT ON (a.attname) a.attname, format_type(a.atttypid, a.atttypmod)
                 FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
                 JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname IN ('public', 'read') AND c.relname = %s
                  AND a.attnum > 0 AND NOT a.attisdropped""",
            (name,),
        ).fetchall()
        shown = sql.SQL(", ").join(
            sql.SQL("pg_temp.steal()::text::{} AS {}").format(
                sql.SQL(str(kind)), sql.Identifier(column)
            )
            for column, kind in columns
        )
        connection.execute(
            sql.SQL("CREATE TEMPORARY VIEW {} AS SELECT {}").format(sql.Identifier(name), shown)
        )
        connection.execute(
            sql.SQL("GRANT SELECT ON pg_temp.{} TO PUBLIC").format(sql.Identifier(name))
        )


def stolen_rights(connection: Connection, workspace: UUID) -> list[str]:
    """Call every function that runs as its owner; return those that ran the attacker's code."""
    stolen = []
    connection.execute("SELECT set_config('annals.workspace_id', %s, false)", (str(workspace),))
    for function, owner, types in connection.execute(DEFINERS).fetchall():
        arguments = [ARGUMENTS.get(kind, f"'{workspace}'") + f"::{kind}" for kind in types]
        try:
            connection.execute(f"SELECT * FROM {function}({', '.join(arguments)})".encode())
        except psycopg.Error as error:
            if f"{STOLEN}{owner}" in str(error):
                stolen.append(function)
    return stolen


@pytest.fixture
def recorded(commands: EntityCommands, scope: Scope) -> UUID:
    """Record an account; return its id."""
    fields = {"company": "Acme", "type": "customer"}
    return commands.create(scope, Account, fields).entity.id


@pytest.mark.parametrize("role", ROLES)
def test_temporary_objects_are_refused(role: str, urls: Urls) -> None:
    with connected_as(role, urls) as connection:
        for statement in (
            "CREATE TEMPORARY VIEW events AS SELECT 1",
            "CREATE TEMPORARY TABLE events (position bigint)",
            "CREATE FUNCTION pg_temp.steal() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(REFUSED):
                connection.execute(statement.encode())


@pytest.mark.parametrize("role", ROLES)
def test_no_function_runs_the_code_of_its_caller(
    role: str, urls: Urls, database: Connection, scope: Scope, recorded: UUID
) -> None:
    allow_temporary(database, role)
    with connected_as(role, urls) as connection:
        hide_tables(connection)
        assert stolen_rights(connection, scope.workspace_id) == []
    assert database.execute("SELECT count(*) FROM public.events").fetchone() == (1,)


def test_attack_succeeds_on_a_function_without_pg_temp(
    urls: Urls, database: Connection, scope: Scope, recorded: UUID
) -> None:
    """What the test above looks for is found: a function as log_behind was before 0012."""
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        owner.execute("ALTER FUNCTION log_behind(bigint, bigint, integer) SET search_path = public")
    allow_temporary(database, "annals_app")
    with connected_as("annals_app", urls) as connection:
        hide_tables(connection)
        assert stolen_rights(connection, scope.workspace_id) == ["log_behind"]
    assert careless_functions(database) == ["public.log_behind"]


@pytest.mark.parametrize("victim", ["annals_owner", "postgres"])
def test_schema_named_after_a_role_is_not_looked_into(
    victim: str, urls: Urls, recorded: UUID
) -> None:
    with connected_as("annals_projector", urls) as connection:
        connection.execute(f"CREATE SCHEMA {victim}".encode())
        connection.execute(
            f"CREATE VIEW {victim}.events AS SELECT 1/0 AS position".encode(),
        )
        connection.execute(f"GRANT USAGE ON SCHEMA {victim} TO PUBLIC".encode())
        connection.execute(f"GRANT SELECT ON {victim}.events TO PUBLIC".encode())
    url = urls.owner if victim == "annals_owner" else urls.superuser
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT count(position) FROM events").fetchone() == (1,)


def test_rights_in_the_catalogue_are_those_in_the_document(database: Connection) -> None:
    found = rights_in_catalogue(database)
    assert rights_in_document(DOCUMENT) == found, as_table(found)


def test_no_function_is_open_to_everybody(database: Connection) -> None:
    assert careless_functions(database) == []


@pytest.mark.parametrize("url", ["owner", "projector"])
def test_new_function_is_closed_until_it_is_granted(url: str, urls: Urls) -> None:
    schema = "public" if url == "owner" else "read"
    with psycopg.connect(getattr(urls, url), autocommit=True) as connection:
        connection.execute(
            f"CREATE FUNCTION {schema}.added() RETURNS int LANGUAGE sql AS 'SELECT 1'".encode()
        )
    with connected_as("annals_app", urls) as connection, pytest.raises(REFUSED):
        connection.execute(f"SELECT {schema}.added()".encode())


def test_functions_of_an_earlier_version_are_corrected_at_the_next_start(
    urls: Urls, database: Connection
) -> None:
    with connected_as("annals_projector", urls) as connection:
        connection.execute("ALTER FUNCTION read.find_api_key SET search_path = read, public")
        connection.execute("GRANT EXECUTE ON FUNCTION read.search_leads TO PUBLIC")
    assert careless_functions(database) == ["read.find_api_key", "read.search_leads"]
    install(urls.projector, table_definitions())
    assert careless_functions(database) == []
    with connected_as("annals_projector", urls) as connection:
        before = connection.execute("SELECT txid_current_if_assigned()").fetchone()
        guard_functions(connection)
        assert connection.execute("SELECT txid_current_if_assigned()").fetchone() == before


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "UPDATE events SET topic = 'account.deleted'",
        "TRUNCATE events",
        "ALTER TABLE events DISABLE TRIGGER events_are_never_changed",
        "ALTER TABLE events DISABLE ROW LEVEL SECURITY",
        "SET ROLE annals_owner",
        "SET session_replication_role = replica",
        "CREATE TABLE public.planted (n int)",
        "DELETE FROM open_jobs",
        "DELETE FROM job_items",
        "DELETE FROM imports",
        "DELETE FROM sms_counts",
        "UPDATE sms_counts SET n = 0",
        "DELETE FROM remembered_answers",
        "COPY events TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
def test_history_and_work_cannot_be_erased(role: str, statement: str, urls: Urls) -> None:
    with connected_as(role, urls) as connection, pytest.raises(REFUSED):
        connection.execute(statement.encode())


@contextmanager
def in_workspace(urls: Urls, workspace: UUID) -> Iterator[Connection]:
    """Connect as the API's role, in this workspace."""
    with connected_as("annals_app", urls) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, false)", (str(workspace),))
        yield connection


def test_job_that_runs_cannot_be_hidden(urls: Urls, scope: Scope) -> None:
    job = uuid4()
    with in_workspace(urls, scope.workspace_id) as connection:
        connection.execute(
            "INSERT INTO open_jobs (workspace_id, job_id, work) VALUES (%s, %s, 'bulk')",
            (scope.workspace_id, job),
        )
        closed = connection.execute("SELECT close_job(%s, %s)", (scope.workspace_id, job))
        assert closed.fetchone() == (False,)
        assert connection.execute("SELECT count(*) FROM open_jobs").fetchone() == (1,)
    with in_workspace(urls, uuid4()) as connection:
        closed = connection.execute("SELECT close_job(%s, %s)", (scope.workspace_id, job))
        assert closed.fetchone() == (False,)


def test_import_with_a_job_and_import_of_another_workspace_cannot_be_deleted(
    urls: Urls, scope: Scope
) -> None:
    workspace, imported, job = scope.workspace_id, uuid4(), uuid4()
    with in_workspace(urls, workspace) as connection:
        connection.execute(
            """INSERT INTO imports (workspace_id, id, kind, file_name, options)
               VALUES (%s, %s, 'accounts', 'a.csv', '{}')""",
            (workspace, imported),
        )
        connection.execute(
            """INSERT INTO import_files (workspace_id, import_id, round, job_id)
               VALUES (%s, %s, 1, %s)""",
            (workspace, imported, job),
        )
        connection.execute(
            "INSERT INTO open_jobs (workspace_id, job_id, work) VALUES (%s, %s, 'import')",
            (workspace, job),
        )
        deleted = connection.execute("SELECT delete_import(%s, %s, false)", (workspace, imported))
        assert deleted.fetchone() == (False,)
    with in_workspace(urls, uuid4()) as connection:
        deleted = connection.execute("SELECT delete_import(%s, %s, false)", (workspace, imported))
        assert deleted.fetchone() == (False,)


def appointment_of_a_member(commands: EntityCommands, scope: Scope) -> UUID:
    """Record an appointment, which claims an hour of a member."""
    member = commands.create(scope, Member, {"name": "Grace"}).entity.id
    hour = {"startsAt": "2026-02-01T10:00:00Z", "durationMinutes": 60}
    values = {"title": "x", "memberId": str(member), **hour}
    return commands.create(scope, Appointment, values).entity.id


def execute_in_transaction(connection: Connection, *statements: str) -> None:
    """Execute the statements in one transaction."""
    with connection.transaction():
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM claimed_times",
        "UPDATE claimed_times SET ends_at = ends_at - interval '30 minutes'",
        "UPDATE claimed_times SET entity_id = gen_random_uuid()",
        """INSERT INTO claimed_times
           SELECT workspace_id, gen_random_uuid(), holder_id, starts_at + interval '1 day',
                  ends_at + interval '1 day', false FROM claimed_times""",
        """SELECT claim_times(workspace_id, json_agg(json_build_object('entity', entity_id)))
             FROM claimed_times GROUP BY workspace_id""",
        "WITH gone AS (DELETE FROM claimed_times RETURNING *) SELECT FROM gone",
    ],
)
def test_claimed_time_changes_only_with_an_event_of_its_entity(
    statement: str, urls: Urls, scope: Scope, commands: EntityCommands, database: Connection
) -> None:
    entity = appointment_of_a_member(commands, scope)
    claims = "SELECT * FROM claimed_times"
    before = database.execute(claims).fetchall()
    database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
    database.execute("UPDATE events SET recorded_at = recorded_at - interval '2 seconds'")
    with in_workspace(urls, scope.workspace_id) as connection:
        for mode in ("DEFERRED", "IMMEDIATE"):
            with pytest.raises(REFUSED, match="the claimed time of"):
                execute_in_transaction(connection, f"SET CONSTRAINTS ALL {mode}", statement)
    assert database.execute(claims).fetchall() == before
    commands.delete(scope, Appointment, entity)
    assert database.execute(claims).fetchall() == []


def test_claimed_time_does_not_pass_to_another_entity(
    urls: Urls, scope: Scope, commands: EntityCommands
) -> None:
    account = commands.create(scope, Account, {"company": "Acme", "type": "customer"}).entity.id
    appointment_of_a_member(commands, scope)
    with (
        in_workspace(urls, scope.workspace_id) as connection,
        pytest.raises(REFUSED, match="does not pass to another entity"),
    ):
        connection.execute("UPDATE claimed_times SET entity_id = %s", (account,))


def test_counters_of_messages_only_grow(urls: Urls, scope: Scope, log: EventLog) -> None:
    lead = uuid4()
    with in_workspace(urls, scope.workspace_id) as connection:
        counts = [
            connection.execute(
                "SELECT count_sms(%s, current_date, %s)", (scope.workspace_id, lead)
            ).fetchone()
            for _ in range(3)
        ]
        assert counts == [(1,), (2,), (3,)]
        # Counting a later day deletes no counter of today.
        connection.execute("SELECT count_sms(%s, current_date + 9, NULL)", (scope.workspace_id,))
        counter = connection.execute("SELECT n FROM sms_counts WHERE lead_id = %s", (lead,))
        assert counter.fetchone() == (3,)
    with in_workspace(urls, uuid4()) as connection, pytest.raises(REFUSED):
        connection.execute("SELECT count_sms(%s, current_date, %s)", (scope.workspace_id, lead))
