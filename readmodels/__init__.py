"""SQL: the definitions of the read tables, and the queries that read them."""

from __future__ import annotations

from pathlib import Path

TABLES_FOLDER = Path(__file__).parent / "tables"


def table_definitions() -> dict[str, str]:
    """The SQL that creates the tables of each projection, by the projection's name."""
    return {path.stem: path.read_text("utf-8") for path in sorted(TABLES_FOLDER.glob("*.sql"))}
