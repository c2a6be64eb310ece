"""The check of the whole log: its protections, and what every projection consumed of it."""

from __future__ import annotations

from collections.abc import Mapping

from eventlog.connections import Connection
from eventlog.migrations import SELECT_APPLIED, SQL_FOLDER
from eventlog.protections import deviations, load_protections
from projections.engine.ledger.coverage import SELECT_LIVE, verify_all


def verify_log(connection: Connection, versions: Mapping[str, str]) -> list[str]:
    """Return what is wrong, in words without any value of an event.

    versions: those of the running code, by projection. Each of these projections must exist and
    have rows of this code, because the ledger of other code may have other digests.
    """
    known = {path.stem for path in SQL_FOLDER.glob("*.sql")}
    applied = {row[0] for row in connection.execute(SELECT_APPLIED)}
    if applied == known:
        faults = [f"the database {each}" for each in deviations(load_protections(connection))]
    else:
        faults = ["the database has the migrations of another version: use that, or migrate"]
    made_by: dict[str, str] = {row[0]: row[3] for row in connection.execute(SELECT_LIVE)}
    faults += [
        f"{name}: its rows were made by version {made_by[name]} of its code, not by {version}"
        for name, version in versions.items()
        if made_by.get(name, version) != version
    ]
    same = [name for name, version in versions.items() if made_by.get(name, version) == version]
    return faults + [str(gap) for gap in verify_all(connection, same)]
