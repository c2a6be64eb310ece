"""Only the code that made the rows of a projection applies events to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection, follow_connection
from eventlog.reading import read_after
from eventlog.scope import Scope
from projections.engine.install import READ_SCHEMA
from projections.engine.live.follower import CheckpointMoved, Follower, MadeByOtherCode, apply_page
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.refusal import RebuildRefused
from projections.engine.rebuild.retry import retry
from projections.engine.rebuild.runner import Rebuild, rollback
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions
from tests.support.databases import Urls
from tests.support.failing_projection import companies, failing_for
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=10)

OLD_DEFINITIONS = table_definitions()
NEW_DEFINITIONS = {
    **OLD_DEFINITIONS,
    "accounts": OLD_DEFINITIONS["accounts"] + "\nSELECT 'another version';\n",
}
OLD = {name: version(name, text) for name, text in OLD_DEFINITIONS.items()}
NEW = {name: version(name, text) for name, text in NEW_DEFINITIONS.items()}


@contextmanager
def running(urls: Urls, versions: Mapping[str, str]) -> Iterator[None]:
    """Run an engine whose code has these versions while the block lasts."""
    engine = ProjectionEngine(urls.projector, PROJECTIONS.values(), versions=versions)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        thread.join()


def write(commands: EntityCommands, scope: Scope, company: str) -> None:
    """Create an account."""
    commands.create(scope, Account, {"company": company, "type": "customer"})


def wait_for_projections(database: Connection, *, without: str = "") -> None:
    """Wait until all projections but one have reached the end of the log."""
    statement = """SELECT count(*) FROM projections
                    WHERE name NOT LIKE '%%:%%' AND name <> %s AND position < readable_position()"""
    wait_until(
        lambda: database.execute(statement, (without,)).fetchone() == (0,),
        "the projections have caught up",
    )


def wanted(database: Connection) -> tuple[str, str]:
    """The versions of the rows of accounts and of the code that last found them unattended."""
    row = database.execute(
        "SELECT version, wanted_version FROM projections WHERE name = 'accounts'"
    ).fetchone()
    assert row is not None
    return row


def assert_stopped(database: Connection, code: str) -> None:
    """Assert that accounts are behind, the others are not, and the database says why."""
    wait_for_projections(database, without="accounts")
    wait_until(lambda: wanted(database)[1] == code, "the code says that it does not apply")
    assert wanted(database)[0] != code
    behind = "SELECT name FROM projections WHERE position < readable_position() AND name !~ ':'"
    assert database.execute(behind).fetchall() == [("accounts",)]


def test_new_code_does_not_write_into_tables_of_old_code(
    urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    with running(urls, OLD):
        write(commands, scope, "one")
        wait_for_projections(database)
    with running(urls, NEW):
        write(commands, scope, "two")
        assert_stopped(database, NEW["accounts"])
        Rebuild(urls.projector, {"accounts": NEW_DEFINITIONS["accounts"]}).run()
        wait_for_projections(database)
    assert set(dict(companies(database))) == {"one", "two"}


def test_old_code_does_not_write_into_tables_of_new_code(
    urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    with running(urls, OLD):
        write(commands, scope, "one")
        wait_for_projections(database)
        Rebuild(urls.projector, {"accounts": NEW_DEFINITIONS["accounts"]}).run()
        write(commands, scope, "two")
        assert_stopped(database, OLD["accounts"])
        with running(urls, NEW):  # beside the old code, as during an upgrade
            wait_for_projections(database)
            write(commands, scope, "three")
            wait_for_projections(database)
    assert set(dict(companies(database))) == {"one", "two", "three"}


def test_code_that_was_rolled_back_from_does_not_go_on(
    urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    with running(urls, OLD):
        write(commands, scope, "one")
        wait_for_projections(database)
        Rebuild(urls.projector, {"accounts": NEW_DEFINITIONS["accounts"]}).run()
    with running(urls, NEW):
        write(commands, scope, "two")
        wait_for_projections(database)
        with pytest.raises(RebuildRefused, match="roll back with that code"):
            rollback(urls.projector, "accounts", NEW_DEFINITIONS["accounts"])
        rollback(urls.projector, "accounts", OLD_DEFINITIONS["accounts"])
        assert set(dict(companies(database))) == {"one", "two"}
        write(commands, scope, "three")
        assert_stopped(database, NEW["accounts"])
        with running(urls, OLD):
            wait_for_projections(database)
    assert set(dict(companies(database))) == {"one", "two", "three"}


def test_tables_of_old_code_stand_still_while_new_code_swaps(
    urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    write(commands, scope, "one")
    with running(urls, OLD):
        wait_for_projections(database)
    write(commands, scope, "two")  # no old code runs any more
    Rebuild(urls.projector, {"accounts": NEW_DEFINITIONS["accounts"]}).run()
    kept = database.execute("SELECT company FROM read_previous_accounts.accounts").fetchall()
    assert kept == [("one",)]
    assert set(dict(companies(database))) == {"one", "two"}
    positions = database.execute(
        "SELECT position < readable_position() FROM projections WHERE name LIKE 'accounts%'"
        " ORDER BY name"
    ).fetchall()
    assert positions == [(False,), (True,)]


def test_swap_between_read_and_write_of_a_batch_is_noticed(
    urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    write(commands, scope, "one")
    with follow_connection(urls.projector, application_name="test") as connection:
        projection = PROJECTIONS["accounts"]
        follower = Follower.open(connection, projection, READ_SCHEMA, OLD["accounts"])
        page = read_after(connection, 0, 100)
        Rebuild(urls.projector, {"accounts": NEW_DEFINITIONS["accounts"]}).run()
        follower.position = page.upto  # the swap has brought the rows there
        write(commands, scope, "two")
        page = read_after(connection, follower.position, 100)
        with pytest.raises(CheckpointMoved):
            apply_page(connection, [follower], page)
        with pytest.raises(MadeByOtherCode):
            Follower.open(connection, projection, READ_SCHEMA, OLD["accounts"])
    assert set(dict(companies(database))) == {"one"}


def test_retry_by_other_code_is_refused(
    urls: Urls, database: Connection, commands: EntityCommands, scope: Scope
) -> None:
    write(commands, scope, "one")
    ProjectionEngine(urls.projector, [failing_for(PROJECTIONS["accounts"], "one")]).catch_up()
    with pytest.raises(RebuildRefused, match="made by version"):
        retry(urls.projector, PROJECTIONS["accounts"], NEW["accounts"])
    (result,) = retry(urls.projector, PROJECTIONS["accounts"], OLD["accounts"])
    assert result.error is None
