"""A fresh migrated database for each test, copied from a template."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import psycopg
from psycopg import sql

from eventlog.migrations import migrate
from projections.engine.install import install
from readmodels import table_definitions
from server.postgres.embedded import Cluster, prepare_database
from server.postgres.roles import DATABASE_OWNER

TEMPLATE = "annals_template"
_numbers = count(1)


@dataclass(frozen=True)
class Urls:
    """URLs of one database, by the role that connects."""

    owner: str
    app: str
    projector: str
    superuser: str
    sender: str = ""


def make_template(cluster: Cluster) -> str:
    """Create the migrated database that tests copy; return its name."""
    urls = prepare_database(cluster, TEMPLATE)
    migrate(urls.owner)
    install(urls.projector, table_definitions())
    return TEMPLATE


@contextmanager
def fresh_database(cluster: Cluster, template: str) -> Iterator[Urls]:
    """Provide a copy of the template while the block lasts."""
    name = f"test_{next(_numbers)}"
    identifier = sql.Identifier(name)
    with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
        # Half the time of the default strategy, which writes every page to the WAL.
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY").format(
                identifier, sql.Identifier(DATABASE_OWNER), sql.Identifier(template)
            )
        )
    urls = prepare_database(cluster, name)
    try:
        yield Urls(urls.owner, urls.app, urls.projector, cluster.url("postgres", name), urls.sender)
    finally:
        with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
