"""Workspaces do not see each other's rows, even if a statement does not filter by workspace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from psycopg import sql

from eventlog.connections import ENTERED, Connection
from eventlog.reading.positions import POSITION_MAX
from readmodels import details, lists
from readmodels.audit import AuditQuery, audit_page
from readmodels.details import detail
from readmodels.lists import LISTS, ListQuery, list_page
from readmodels.pool import AsyncConnection, ReadPool
from server.postgres.embedded import Cluster
from tests.support.list_pages import Pages, forget_statements
from tests.support.oracle import COUNTS, TABLE_OF, assert_tables_match_log
from tests.support.populated_workspaces import PopulatedDatabase, populated_database
from tests.support.reference_lists import ListRequest

SEED = 7
KEYS_OF = ("company", "email", "phone")
KEYS = [f"{reason}_{what}" for reason in KEYS_OF for what in ("keys", "counts")]
TABLES = [*TABLE_OF.values(), *COUNTS, "jobs", *KEYS]

NOT_ENTERED = """
WITH entered AS MATERIALIZED (SELECT %(workspace)s::uuid AS workspace)"""

every_table = pytest.mark.parametrize("table", TABLES)
every_list = pytest.mark.parametrize("plural", sorted(LISTS))


@pytest.fixture(scope="module")
def populated(cluster: Cluster, template: str) -> Iterator[PopulatedDatabase]:
    """Fill two workspaces once for this module; no test changes them."""
    with populated_database(cluster, template, SEED) as made:
        yield made


@pytest.fixture
def api(populated: PopulatedDatabase) -> Iterator[Connection]:
    """Connect as the API's role, without a workspace."""
    with psycopg.connect(populated.urls.app) as connection:
        yield connection


@pytest.fixture
def superuser(populated: PopulatedDatabase) -> Iterator[Connection]:
    with psycopg.connect(populated.urls.superuser, autocommit=True) as connection:
        yield connection


def enter(connection: Connection, workspace_id: UUID) -> None:
    connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(workspace_id)])


def workspaces_in(connection: Connection, table: str) -> set[UUID]:
    """Return the workspaces of all rows that the connection sees."""
    query = sql.SQL("SELECT DISTINCT workspace_id FROM {}").format(sql.Identifier("read", table))
    return {row[0] for row in connection.execute(query)}


def test_every_read_table_is_tested(superuser: Connection) -> None:
    rows = superuser.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'read'")
    assert {row[0] for row in rows} == set(TABLES)


def test_read_tables_match_log(superuser: Connection) -> None:
    assert_tables_match_log(superuser)


@every_table
def test_api_sees_only_its_workspace(
    table: str, api: Connection, superuser: Connection, populated: PopulatedDatabase
) -> None:
    all_workspaces = workspaces_in(superuser, table)
    for workspace_id in populated.workspaces:
        enter(api, workspace_id)
        assert workspaces_in(api, table) == all_workspaces & {workspace_id}


@every_table
@pytest.mark.parametrize("workspace", ["", "00000000-0000-0000-0000-000000000000"])
def test_api_without_workspace_sees_no_rows(table: str, workspace: str, api: Connection) -> None:
    api.execute("SELECT set_config('annals.workspace_id', %s, true)", [workspace])
    assert workspaces_in(api, table) == set()


@every_table
def test_row_level_security_cannot_be_switched_off(table: str, api: Connection) -> None:
    api.execute("SET LOCAL row_security = off")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        workspaces_in(api, table)


@every_table
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {}",
        "TRUNCATE {}",
        "UPDATE {} SET workspace_id = workspace_id",
        "INSERT INTO {} (workspace_id) VALUES (NULL)",
        "DROP TABLE {}",
        "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    ],
)
def test_api_cannot_change_read_tables(
    table: str, statement: str, api: Connection, populated: PopulatedDatabase
) -> None:
    enter(api, populated.workspaces[0])
    name = sql.Identifier("read", table)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        api.execute(sql.SQL(statement).format(name))


def test_row_level_security_is_forced_on_every_read_table(superuser: Connection) -> None:
    unguarded = superuser.execute(
        """SELECT relname FROM pg_class
            WHERE relnamespace = 'read'::regnamespace AND relkind IN ('r', 'p', 'm', 'v')
              AND NOT (relrowsecurity AND relforcerowsecurity)"""
    )
    assert unguarded.fetchall() == []


def test_api_role_owns_no_table_and_has_no_special_rights(superuser: Connection) -> None:
    owned = superuser.execute(
        "SELECT oid::regclass FROM pg_class WHERE relowner = 'annals_app'::regrole"
    )
    assert owned.fetchall() == []
    rights = superuser.execute(
        """SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb
             FROM pg_roles WHERE rolname = 'annals_app'"""
    )
    assert rights.fetchone() == (False, False, False, False)


@every_list
def test_search_in_another_workspace_finds_nothing(
    plural: str, api: Connection, populated: PopulatedDatabase
) -> None:
    mine, theirs = populated.workspaces
    search = sql.SQL("SELECT count(*) FROM {}(%s, %s)").format(
        sql.Identifier(*LISTS[plural].search.split("."))
    )
    enter(api, mine)
    own = api.execute(search, [mine, "%a%"]).fetchone()
    assert own is not None
    assert own[0] > 0
    for pattern in ("%a%", "%%", "%", "", "%' | 'a%", "%':* | !'%", "%\\\\%", "%a\\\\%", "a"):
        assert api.execute(search, [theirs, pattern]).fetchone() == (0,)


@pytest.mark.parametrize("role", ["sender", "app"])
def test_functions_of_the_search_are_closed_to_others(
    role: str, populated: PopulatedDatabase
) -> None:
    call = {
        "app": "SELECT letter_groups('a')",
        "sender": "SELECT read.search_accounts(gen_random_uuid(), '%a%')",
    }
    with (
        psycopg.connect(getattr(populated.urls, role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(call[role].encode())


@pytest.fixture
def without_entering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Statements of lists and details that do not enter the workspace that they name."""
    for module, name in ((lists, "WHOLE_PAGE"), (lists, "SEARCH_PAGE"), (details, "DETAIL")):
        statement = getattr(module, name)
        assert ENTERED in statement
        monkeypatch.setattr(module, name, statement.replace(ENTERED, NOT_ENTERED))
    forget_statements()
    yield
    forget_statements()


@every_list
@pytest.mark.usefixtures("without_entering")
@pytest.mark.parametrize("is_in_another", [True, False])
def test_list_query_without_its_workspace_is_empty(
    plural: str, is_in_another: bool, populated: PopulatedDatabase
) -> None:
    """The query names one workspace, the connection is in another or in none; both must agree."""
    mine, theirs = populated.workspaces
    pages = Pages(populated.urls.app, theirs)

    async def ask(connection: AsyncConnection) -> list[int]:
        entered = str(mine) if is_in_another else ""
        await connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [entered])
        numbers = []
        for search in (None, "a", "acme"):
            page = await pages.page(connection, ListRequest(plural, search=search))
            numbers += [len(page["items"]), page["pagination"]["totalItems"]]
        return numbers

    assert pages.reading(ask) == [0] * 6


@every_list
@pytest.mark.usefixtures("without_entering")
def test_detail_without_its_workspace_is_none(plural: str, populated: PopulatedDatabase) -> None:
    mine, theirs = populated.workspaces
    their_ids = [row["id"] for row in populated.references[1].rows(plural)][:5]

    async def look(connection: AsyncConnection) -> list[Any]:
        return [await detail(connection, plural, theirs, entity_id) for entity_id in their_ids]

    assert their_ids
    assert Pages(populated.urls.app, mine).reading(look) == [None] * len(their_ids)


@every_list
def test_detail_of_another_workspaces_entity_is_none(
    plural: str, populated: PopulatedDatabase
) -> None:
    mine, _ = populated.workspaces
    their_ids = [row["id"] for row in populated.references[1].rows(plural)][:5]

    async def look(connection: AsyncConnection) -> list[Any]:
        return [await detail(connection, plural, mine, entity_id) for entity_id in their_ids]

    assert Pages(populated.urls.app, mine).reading(look) == [None] * len(their_ids)


@every_list
def test_single_statement_leaves_no_workspace_in_its_connection(
    plural: str, populated: PopulatedDatabase
) -> None:
    """A pool gives the connection to requests of other workspaces."""

    async def ask() -> None:
        pool = ReadPool(populated.urls.app, max_size=1)
        await pool.open()
        numbers = []
        for workspace in (*populated.workspaces, UUID(int=1)) * 5:  # more often than is prepared
            query = ListQuery(workspace)
            async with pool.plain() as connection:
                page = await list_page(connection, LISTS[plural], query)
                left = await connection.execute(
                    f"SELECT current_setting('annals.workspace_id', true),"
                    f" (SELECT count(*) FROM read.{plural})".encode()
                )
                assert await left.fetchone() == ("", 0)
            numbers.append(orjson.loads(page.content)["pagination"]["totalItems"])
        rows = [len(reference.rows(plural)) for reference in populated.references]
        assert numbers == [*rows, 0] * 5
        await pool.close()

    asyncio.run(ask())


@pytest.mark.parametrize(("method", "given"), [("plain", ()), ("workspace", (UUID(int=1),))])
def test_connections_for_reading_cannot_write(
    method: str, given: tuple[UUID, ...], populated: PopulatedDatabase
) -> None:
    async def ask() -> None:
        pool = ReadPool(populated.urls.app, max_size=1)
        await pool.open()
        async with getattr(pool, method)(*given) as connection:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await connection.execute("DELETE FROM claimed_times")
        await pool.close()

    asyncio.run(ask())


def test_audit_trail_of_another_workspace_is_empty(populated: PopulatedDatabase) -> None:
    mine, theirs = populated.workspaces
    account = populated.fillers[1].accounts[0]

    async def ask(connection: AsyncConnection) -> list[bytes]:
        return [
            await audit_page(connection, AuditQuery(theirs), POSITION_MAX),
            await audit_page(connection, AuditQuery(mine, entity_id=account), POSITION_MAX),
        ]

    for page in Pages(populated.urls.app, mine).reading(ask):
        assert orjson.loads(page) == {"items": [], "nextCursor": None}
