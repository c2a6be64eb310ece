"""The rights of the database's roles: those in the catalogue, and those in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eventlog.connections import Connection

ROLES = ("annals_app", "annals_projector", "annals_sender")
"""The roles of processes, in the order of the columns of the table."""
READ_TABLES = "tables of `read`"
NOTHING = "–"

Rights = dict[str, tuple[str, ...]]
"""By object: what each role may do, in the order of ROLES."""

# Rights that a role has on tables, views and sequences; those on single columns with their names.
ON_TABLES = """
SELECT n.nspname, c.relname, r.role, c.relowner::regrole::text,
       (SELECT string_agg(p, ', ' ORDER BY place)
          FROM unnest(CASE c.relkind WHEN 'S' THEN '{SELECT,UPDATE,USAGE}'::text[]
                      ELSE '{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}' END)
               WITH ORDINALITY AS each(p, place)
         WHERE CASE c.relkind WHEN 'S' THEN has_sequence_privilege(r.role, c.oid, p)
               ELSE has_table_privilege(r.role, c.oid, p) END),
       (SELECT string_agg(p || ' (' || columns || ')', ', ' ORDER BY p)
          FROM (SELECT p, string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns
                  FROM unnest('{INSERT,UPDATE,SELECT}'::text[]) AS p, pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND c.relkind <> 'S'
                   AND has_column_privilege(r.role, c.oid, a.attnum, p)
                   AND NOT has_table_privilege(r.role, c.oid, p)
                 GROUP BY p) AS by_column)
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS r(role, place)
 WHERE n.nspname IN ('public', 'read') AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
   AND NOT c.relispartition
   AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname, r.place
"""
ON_FUNCTIONS = """
SELECT n.nspname, p.proname, p.prosecdef, p.proowner::regrole::text,
       coalesce(array_to_string(p.proconfig, '; '), ''),
       has_function_privilege('public', p.oid, 'EXECUTE'),
       array(SELECT has_function_privilege(r.role, p.oid, 'EXECUTE')
               FROM unnest(%s::text[]) WITH ORDINALITY AS r(role, place) ORDER BY r.place)
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname IN ('public', 'read')
   AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
 ORDER BY n.nspname, p.proname
"""
ON_DATABASE = """
SELECT string_agg(p, ', ' ORDER BY place)
  FROM unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) WITH ORDINALITY AS each(p, place)
 WHERE has_database_privilege(%s, current_database(), p)
"""
ON_SCHEMA = """
SELECT string_agg(p, ', ' ORDER BY place)
  FROM unnest('{USAGE,CREATE}'::text[]) WITH ORDINALITY AS each(p, place)
 WHERE has_schema_privilege(%s, %s, p)
"""


def rights_in_catalogue(connection: Connection) -> Rights:
    """Return the rights of each role in this database. The read tables share one entry."""
    roles = [*ROLES]
    rights: Rights = {"database": _row(connection, ON_DATABASE, [(role,) for role in ROLES])}
    for schema in ("public", "read"):
        pairs = [(role, schema) for role in ROLES]
        rights[f"schema `{schema}`"] = _row(connection, ON_SCHEMA, pairs)
    tables: dict[str, list[tuple[str, ...]]] = {}
    rows = connection.execute(ON_TABLES, (roles,)).fetchall()
    for start in range(0, len(rows), len(ROLES)):
        of_table = rows[start : start + len(ROLES)]
        title = READ_TABLES if of_table[0][0] == "read" else f"`{of_table[0][1]}`"
        tables.setdefault(title, []).append(tuple(map(_cell, of_table)))
    for title, found in tables.items():
        assert len(set(found)) == 1, f"{title} have different rights: {set(found)}"
        rights[title] = found[0]
    for schema, name, is_definer, owner, _, _, may in connection.execute(ON_FUNCTIONS, (roles,)):
        title = f"`{schema}.{name}()`" if schema != "public" else f"`{name}()`"
        title += f", as {owner}" if is_definer else ""
        cells = tuple("EXECUTE" if each else NOTHING for each in may)
        rights[title] = tuple(
            "owns" if owner == role else cell for role, cell in zip(ROLES, cells, strict=True)
        )
    return rights


def rights_in_document(path: Path) -> Rights:
    """Return the rights in the table of this document."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {row[0]: tuple(row[1:]) for row in rows if not set(row[0]) <= {"-"}}


def careless_functions(connection: Connection) -> list[str]:
    """Return the functions that anyone may call, or that look for temporary objects first."""
    return [
        f"{schema}.{name}"
        for schema, name, is_definer, _, config, is_public, _ in connection.execute(
            ON_FUNCTIONS, ([*ROLES],)
        )
        if is_public or (is_definer and not _names_temporary_last(config))
    ]


def as_table(rights: Rights) -> str:
    """Return the lines of the table of the document."""
    return "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rights.items())


def _cell(row: tuple[str, ...]) -> str:
    _, _, role, owner, whole, columns = row
    return "owns" if owner == role else ", ".join(filter(None, (whole, columns))) or NOTHING


def _names_temporary_last(config: str) -> bool:
    paths = [each for each in config.split("; ") if each.startswith("search_path=")]
    return bool(paths) and paths[0].endswith(", pg_temp")


def _row(
    connection: Connection, query: str, arguments: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    cells = []
    for each in arguments:
        row = connection.execute(query.encode(), each).fetchone()
        cells.append((row and row[0]) or NOTHING)
    return tuple(cells)
