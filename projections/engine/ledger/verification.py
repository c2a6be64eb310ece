"""The check of the whole log: its protections, and what every projection consumed of it."""

from __future__ import annotations

from collections.abc import Mapping

from eventlog.connections import Connection
from eventlog.migrations import SELECT_APPLIED, SQL_FOLDER
from eventlog.protections import deviations, load_protections
from projections.engine.install import READ_SCHEMA, SELECT_FUNCTIONS, changed_functions
from projections.engine.ledger.coverage import (
    SELECT_LIVE,
    OnVerifyProgress,
    no_progress,
    verify_all,
)
from projections.engine.registry import PROJECTIONS, versions

SELECT_TABLES = "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace(%s)"


def verify_log(
    connection: Connection,
    definitions: Mapping[str, str],
    *,
    on_progress: OnVerifyProgress = no_progress,
) -> list[str]:
    """Return what is wrong, in words without any value of an event.

    definitions: the SQL of the tables of each projection of the running code. Each of these
    projections must exist, with its tables and functions, and have rows of this code, because the
    ledger of other code may have other digests. on_progress: as for `verify_all`.
    """
    wanted = versions(definitions)
    known = {path.stem for path in SQL_FOLDER.glob("*.sql")}
    applied = {row[0] for row in connection.execute(SELECT_APPLIED)}
    if applied == known:
        faults = [f"the database {each}" for each in deviations(load_protections(connection))]
    else:
        faults = ["the database has the migrations of another version: use that, or migrate"]
    made_by: dict[str, str] = {row[0]: row[3] for row in connection.execute(SELECT_LIVE)}
    faults += [
        f"{name}: its rows were made by version {made_by[name]} of its code, not by {version}"
        for name, version in wanted.items()
        if made_by.get(name, version) != version
    ]
    present = {row[0] for row in connection.execute(SELECT_TABLES, (READ_SCHEMA,))}
    faults += [
        f"{name}: its table {READ_SCHEMA}.{table.name} is missing"
        for name in wanted
        for table in PROJECTIONS[name].tables
        if table.name not in present
    ]
    same = [name for name, version in wanted.items() if made_by.get(name, version) == version]
    if len(same) == len(wanted):
        functions = connection.execute(SELECT_FUNCTIONS.encode()).fetchall()
        faults += [
            f"the database {each}" for each in changed_functions(functions, definitions.values())
        ]
    return faults + [str(gap) for gap in verify_all(connection, same, on_progress=on_progress)]
