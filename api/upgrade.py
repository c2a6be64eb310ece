"""Bring a database up to this version: the log's schema, then the tables of new projections."""

from __future__ import annotations

from eventlog.migrations import migrate
from projections.engine.install import install
from readmodels import table_definitions


def upgrade(owner_url: str, projector_url: str) -> list[str]:
    """What was done, one line each; empty where nothing was to do. Raises `psycopg.Error`."""
    migrations = [f"migration {name}" for name in migrate(owner_url)]
    installed = [f"projection {name}" for name in install(projector_url, table_definitions())]
    return migrations + installed
