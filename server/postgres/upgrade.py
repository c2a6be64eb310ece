"""Upgrade a database to this version: the log's schema, then the tables of new projections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from eventlog.migrations import Migration, migrate, pending_migrations
from projections.engine.install import install
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions

OnStep = Callable[[str, float], None]
"""Called after each step with its name and the seconds it took."""


@dataclass(frozen=True)
class UpgradePlan:
    """The steps of an upgrade, in order."""

    migrations: list[Migration]
    new_projections: list[str]
    changed_projections: list[str]
    """Projections whose rows were written by another version of their code. An upgrade does not
    change them; `annals rebuild` rebuilds them."""


def upgrade(
    owner_url: str, projector_url: str, on_step: OnStep = lambda step, seconds: None
) -> list[str]:
    """Upgrade the database. Return one line for each step, or none if it was up to date.

    Raises `MigrationBlocked` and `psycopg.Error`.
    """

    def report(migration: Migration, seconds: float) -> None:
        on_step(f"migration {migration.name}", seconds)

    migrations = [f"migration {name}" for name in migrate(owner_url, on_migration=report)]
    started = time.monotonic()
    installed = [f"projection {name}" for name in install(projector_url, table_definitions())]
    if installed:
        on_step(", ".join(installed), time.monotonic() - started)
    return migrations + installed


def plan_upgrade(owner_url: str) -> UpgradePlan:
    """Return what `upgrade` would do, without changing anything."""
    with psycopg.connect(owner_url) as connection:
        if connection.execute("SELECT to_regclass('projections')").fetchone() == (None,):
            rows = []
        else:
            rows = connection.execute("SELECT name, version FROM projections").fetchall()
    versions: dict[str, str] = dict(rows)
    return UpgradePlan(
        migrations=pending_migrations(owner_url),
        new_projections=[name for name in PROJECTIONS if name not in versions],
        changed_projections=[
            name
            for name, text in table_definitions().items()
            if name in versions and versions[name] != version(name, text)
        ],
    )
