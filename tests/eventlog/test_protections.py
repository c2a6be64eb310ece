"""What protects the log is compared with what the migrations made; tampering is named."""

from __future__ import annotations

import psycopg
import pytest

from eventlog.connections import Connection
from eventlog.protections import (
    EXPECTED_FILE,
    deviations,
    load_protections,
)
from tests.support.databases import Urls


def test_file_lists_the_protections_of_a_new_database(database: Connection) -> None:
    found = load_protections(database)
    assert found == EXPECTED_FILE.read_text("utf-8").splitlines(), "\n".join(found)
    assert deviations(found) == []


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        ("ALTER TABLE events DISABLE TRIGGER events_are_never_changed", "events_are_never_changed"),
        ("ALTER TABLE events ENABLE TRIGGER events_announce_writer", "events_announce_writer"),
        ("DROP TRIGGER events_are_never_changed ON events", "events_are_never_changed"),
        ("ALTER TABLE events DISABLE ROW LEVEL SECURITY", "row security f"),
        ("ALTER TABLE events NO FORCE ROW LEVEL SECURITY", "forced f"),
        ("DROP POLICY own_workspace ON events", "policy own_workspace"),
        ("ALTER POLICY own_workspace ON events USING (true)", "policy own_workspace"),
        ("CREATE POLICY more ON events TO annals_app USING (true)", "policy more"),
        ("GRANT UPDATE ON events TO annals_app", "UPDATE to annals_app"),
        ("GRANT DELETE ON events TO PUBLIC", "DELETE to public"),
        ("GRANT INSERT (position) ON events TO annals_app", "events column position: INSERT"),
        ("GRANT SELECT ON process_states TO annals_app", "SELECT to annals_app"),
        ("ALTER TABLE events OWNER TO annals_app", "owner annals_app"),
        ("CREATE RULE quiet AS ON UPDATE TO events DO INSTEAD NOTHING", "rule quiet"),
        (
            "CREATE TRIGGER more BEFORE INSERT ON events"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_history()",
            "trigger more",
        ),
        (
            "CREATE OR REPLACE FUNCTION refuse_change_of_history() RETURNS trigger"
            " LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
            "function refuse_change_of_history()",
        ),
        ("ALTER FUNCTION close_job SET search_path = public", "function close_job"),
        ("GRANT EXECUTE ON FUNCTION close_job TO PUBLIC", "EXECUTE to public"),
        ("CREATE TABLE kept () INHERITS (events)", "inherited by kept"),
        ("DROP TABLE claimed_times CASCADE", "table claimed_times"),
        ("ALTER TABLE read.accounts DISABLE ROW LEVEL SECURITY", "table accounts without"),
        ("DROP POLICY own_workspace ON read.notes", "table notes without"),
    ],
)
def test_tampering_as_superuser_is_named(
    tampering: str, named: str, database: Connection, urls: Urls
) -> None:
    database.execute(tampering.encode())
    with psycopg.connect(urls.app) as connection:  # the API reads the same
        found = deviations(load_protections(connection))
    assert any(named in each for each in found), found


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS", "CREATEROLE"])
def test_attribute_of_a_role_is_named(attribute: str, database: Connection) -> None:
    with database.transaction(force_rollback=True):  # roles are shared by all tests
        database.execute(f"ALTER ROLE annals_app {attribute}".encode())
        found = deviations(load_protections(database))
    assert [each.partition(":")[0] for each in found] == [
        "lacks role annals_app",
        "has role annals_app",
    ]


def test_objects_of_a_later_version_and_readers_of_others_are_no_deviation(
    database: Connection,
) -> None:
    with database.transaction(force_rollback=True):
        database.execute("CREATE TABLE later (n int)")
        database.execute("CREATE ROLE reporting")
        database.execute("GRANT SELECT ON events TO reporting")
        assert deviations(load_protections(database)) == []
        database.execute("GRANT UPDATE ON events TO reporting")
        assert deviations(load_protections(database)) == ["has table events: UPDATE to reporting"]
