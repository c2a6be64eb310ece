"""An upgrade removes a projection that this version no longer has."""

from __future__ import annotations

import psycopg

from eventlog.connections import Connection
from projections.engine.install import STATE_TABLES, install
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from tests.support.databases import Urls

NAMES = ("audit", "audit:shadow", "audit:previous")
KEPT = ("notes", "notes:previous", "audits")
"""Projections with a similar name, or of this version."""
SCHEMAS = ("read_shadow_audit", "read_previous_audit")
EARLIER = [
    "CREATE TABLE read.audit (position bigint)",
    *(f"CREATE SCHEMA {schema} CREATE TABLE audit (position bigint)" for schema in SCHEMAS),
]
ADD_CHECKPOINT = """
INSERT INTO projections (name, version, wanted_version) VALUES (%s, 'old', 'old')
    ON CONFLICT (name) DO NOTHING
"""
ADD_LEDGER = """
INSERT INTO projection_coverage (projection, bucket, n, digest, weighted) VALUES (%s, 0, 1, 1, 1)
"""


def test_tables_and_state_of_retired_projection_are_removed(
    urls: Urls, database: Connection
) -> None:
    with psycopg.connect(urls.projector, autocommit=True) as projector:
        for statement in EARLIER:
            projector.execute(statement.encode())
        for name in (*NAMES, *KEPT):
            projector.execute(ADD_CHECKPOINT, (name,))
            projector.execute(ADD_LEDGER, (name,))
    assert install(urls.projector, table_definitions()) == []
    assert database.execute("SELECT to_regclass('read.audit')").fetchone() == (None,)
    schemas = database.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'read%'")
    assert schemas.fetchall() == [("read",)]
    left = {row[0] for row in database.execute("SELECT name FROM projections")}
    assert left == {*PROJECTIONS, *KEPT}
    for table in STATE_TABLES:
        rows = database.execute(f"SELECT DISTINCT projection FROM {table}".encode()).fetchall()
        assert not {row[0] for row in rows} & set(NAMES)
    ledgers = database.execute("SELECT projection FROM projection_coverage ORDER BY 1").fetchall()
    assert ledgers == [(name,) for name in sorted(KEPT)]
