"""Databases that report the plans of all statements as notices."""

from __future__ import annotations

import psycopg
from psycopg import sql

from server.postgres.embedded import Cluster


def explain_all(cluster: Cluster, database: str) -> None:
    """Make new connections to the database report each plan that was executed."""
    with psycopg.connect(cluster.superuser_url, autocommit=True) as connection:
        for name, value in (
            ("session_preload_libraries", "auto_explain"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_nested_statements", "on"),
            ("auto_explain.log_analyze", "on"),
            ("client_min_messages", "log"),
        ):
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(database), sql.SQL(name), sql.Literal(value)
                )
            )
