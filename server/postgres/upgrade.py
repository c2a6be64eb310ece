"""Bring a database up to this version: the log's schema, then the tables of new projections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from eventlog.migrations import Migration, migrate, pending
from projections.engine.install import install
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions

OnStep = Callable[[str, float], None]
"""Told of each step that was done, and the seconds that it took."""


@dataclass(frozen=True)
class UpgradePlan:
    """What an upgrade would do, in order."""

    migrations: list[Migration]
    new_projections: list[str]
    changed_projections: list[str]
    """Their code is another than that by which the rows were made: an upgrade leaves them as they
    are, `annals rebuild` makes them anew."""


def upgrade(
    owner_url: str, projector_url: str, told: OnStep = lambda step, seconds: None
) -> list[str]:
    """What was done, one line each; empty where nothing was to do.

    Raises `MigrationBlocked` and `psycopg.Error`.
    """

    def told_of_migration(migration: Migration, seconds: float) -> None:
        told(f"migration {migration.name}", seconds)

    migrations = [f"migration {name}" for name in migrate(owner_url, told=told_of_migration)]
    started = time.monotonic()
    installed = [f"projection {name}" for name in install(projector_url, table_definitions())]
    if installed:
        told(", ".join(installed), time.monotonic() - started)
    return migrations + installed


def plan_upgrade(owner_url: str) -> UpgradePlan:
    """What `upgrade` would do. Changes nothing."""
    with psycopg.connect(owner_url) as connection:
        if connection.execute("SELECT to_regclass('projections')").fetchone() == (None,):
            rows = []
        else:
            rows = connection.execute("SELECT name, version FROM projections").fetchall()
    versions: dict[str, str] = dict(rows)
    return UpgradePlan(
        migrations=pending(owner_url),
        new_projections=[name for name in PROJECTIONS if name not in versions],
        changed_projections=[
            name
            for name, text in table_definitions().items()
            if name in versions and versions[name] != version(name, text)
        ],
    )
