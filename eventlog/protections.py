"""What protects the log in the database: row-level security, triggers, rights and functions.

`protections.txt` lists what the migrations of this version make, one line each; a test compares it
with a new database. A database is compared with it while it runs, because its owner or a superuser
can switch protections off without a trace in the log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from eventlog.connections import AsyncConnection, Connection

EXPECTED_FILE = Path(__file__).with_suffix(".txt")
DEVIATIONS_MAX = 20
"""Maximum number of deviations that are named."""

# Roles that own a table or run the processes are named; a right of another role counts if it lets
# that role change something. The read tables are in the normal form that `install` gives them, so a
# line says only which are not: their names and columns differ by the version of a projection.
SELECT_PROTECTIONS = """
WITH RECURSIVE processes AS (
    SELECT oid FROM pg_roles
     WHERE rolname IN ('annals_app', 'annals_projector', 'annals_sender')
), tables AS (
    SELECT c.oid, c.relname::text AS name, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
           c.relacl, c.relkind
      FROM pg_class AS c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S')
       AND NOT c.relispartition
       AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
), read_tables AS (
    SELECT c.oid, c.relname::text AS name, c.relowner, c.relacl, c.relrowsecurity,
           c.relforcerowsecurity
      FROM pg_class AS c
     WHERE c.relnamespace = to_regnamespace('read') AND c.relkind IN ('r', 'p')
), functions AS (
    SELECT p.oid, p.oid::regprocedure::text AS name, p.proowner, p.prosecdef, p.proconfig, p.prosrc,
           coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
      FROM pg_proc AS p
     WHERE p.pronamespace = 'public'::regnamespace
       AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
), policies AS (
    SELECT p.polrelid, p.polname::text AS name,
           format('%s, permissive %s, to %s, using %s, check %s', p.polcmd, p.polpermissive,
                  (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END, ', '
                                     ORDER BY r::regrole::text) FROM unnest(p.polroles) AS r),
                  coalesce(pg_get_expr(p.polqual, p.polrelid), 'none'),
                  coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'none')) AS terms
      FROM pg_policy AS p
), rights AS (
    SELECT 'table ' || t.name AS object, a.grantee, t.relowner AS owner, a.privilege_type AS what
      FROM tables AS t, aclexplode(t.relacl) AS a
     UNION ALL
    SELECT format('table %s column %s', t.name, c.attname), a.grantee, t.relowner, a.privilege_type
      FROM tables AS t JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attacl IS NOT NULL,
           aclexplode(c.attacl) AS a
     UNION ALL
    SELECT 'function ' || f.name, a.grantee, f.proowner, a.privilege_type
      FROM functions AS f, aclexplode(f.acl) AS a
), wide_rights AS (
    SELECT 'database' AS object, a.grantee, d.datdba AS owner, a.privilege_type AS what
      FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
     WHERE d.datname = current_database()
     UNION ALL
    SELECT 'schema ' || n.nspname, a.grantee, n.nspowner, a.privilege_type
      FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
     WHERE n.nspname IN ('public', 'read')
     UNION ALL
    SELECT 'schema read', a.grantee, t.relowner, format('%s of %s', a.privilege_type, t.name)
      FROM read_tables AS t, aclexplode(t.relacl) AS a
     WHERE a.privilege_type <> 'SELECT'
     UNION ALL
    SELECT 'schema read', a.grantee, t.relowner,
           format('%s of %s.%s', a.privilege_type, t.name, c.attname)
      FROM read_tables AS t JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attacl IS NOT NULL,
           aclexplode(c.attacl) AS a
     WHERE a.privilege_type <> 'SELECT'
), views(oid) AS (
    SELECT r.ev_class FROM pg_rewrite AS r
      JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
       AND (d.refobjid IN (SELECT oid FROM tables) OR d.refobjid IN (SELECT oid FROM read_tables))
     UNION
    SELECT r.ev_class FROM views AS v
      JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid
      JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE r.ev_class <> v.oid
)
SELECT format('table %s: owner %s, row security %s, forced %s', name, relowner::regrole,
              relrowsecurity, relforcerowsecurity)
  FROM tables WHERE relkind <> 'S'
 UNION ALL
SELECT format('table %s: a sequence of %s, from %s by %s, cycles %s, caches %s', t.name,
              t.relowner::regrole, s.seqstart, s.seqincrement, s.seqcycle, s.seqcache)
  FROM tables AS t JOIN pg_sequence AS s ON s.seqrelid = t.oid
 UNION ALL
SELECT format('table %s: trigger %s, enabled %s, %s', t.name, g.tgname, g.tgenabled,
              regexp_replace(pg_get_triggerdef(g.oid), '^CREATE (CONSTRAINT )?TRIGGER \\S+ ', ''))
  FROM tables AS t JOIN pg_trigger AS g ON g.tgrelid = t.oid
 WHERE NOT g.tgisinternal
 UNION ALL
SELECT format('table %s: policy %s, %s', t.name, p.name, p.terms)
  FROM tables AS t JOIN policies AS p ON p.polrelid = t.oid
 UNION ALL
SELECT format('table %s: constraint %s, %s', t.name, c.conname, pg_get_constraintdef(c.oid))
  FROM tables AS t JOIN pg_constraint AS c ON c.conrelid = t.oid
 WHERE c.contype <> 'n'
 UNION ALL
SELECT format('table %s: unique %s, valid %s', t.name,
              regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE UNIQUE INDEX ', ''),
              i.indisvalid)
  FROM tables AS t JOIN pg_index AS i ON i.indrelid = t.oid
 WHERE i.indisunique
 UNION ALL
SELECT format('table %s: column %s %s, null %s, default %s', t.name, a.attname,
              format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
              coalesce(pg_get_expr(d.adbin, d.adrelid),
                       CASE a.attidentity WHEN 'a' THEN 'identity' END, 'none'))
  FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = t.oid AND d.adnum = a.attnum
 WHERE t.name = 'events' AND a.attnum > 0 AND NOT a.attisdropped
 UNION ALL
SELECT format('table %s: rule %s', t.name, r.rulename)
  FROM tables AS t JOIN pg_rewrite AS r ON r.ev_class = t.oid
 UNION ALL
SELECT format('table %s: inherited by %s', t.name, i.inhrelid::regclass)
  FROM tables AS t JOIN pg_inherits AS i ON i.inhparent = t.oid
 WHERE t.relkind <> 'p'
 UNION ALL
SELECT format('function %s: owner %s, definer %s, settings %s, body %s', name, proowner::regrole,
              prosecdef, proconfig, md5(prosrc))
  FROM functions
 UNION ALL
SELECT format('%s: %s to %s', object, what,
              CASE grantee WHEN 0 THEN 'public' ELSE grantee::regrole::text END)
  FROM rights
 WHERE grantee <> owner
   AND (what <> 'SELECT' OR grantee IN (SELECT oid FROM processes))
 UNION ALL
SELECT format('%s: %s to %s', object, what,
              CASE grantee WHEN 0 THEN 'public' ELSE grantee::regrole::text END)
  FROM wide_rights
 WHERE grantee <> owner AND what NOT IN ('USAGE', 'CONNECT')
 UNION ALL
SELECT format('database: setting %s for %s', given,
              CASE s.setrole WHEN 0 THEN 'all' ELSE s.setrole::regrole::text END)
  FROM pg_db_role_setting AS s, unnest(s.setconfig) AS given
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND given ~ '^(search_path|session_replication_role|row_security|role)='
 UNION ALL
SELECT format('role %s: superuser %s, bypasses row security %s, creates roles %s, member of %s',
              r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole,
              array(SELECT m.roleid::regrole::text FROM pg_auth_members AS m
                     WHERE m.member = r.oid ORDER BY 1))
  FROM pg_roles AS r WHERE r.oid IN (SELECT oid FROM processes)
 UNION ALL
SELECT format('functions with the rights of another role: %s of %s for %s', p.oid::regprocedure,
              p.proowner::regrole, r.oid::regrole)
  FROM pg_proc AS p, processes AS r
 WHERE p.prosecdef AND p.proowner <> r.oid AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
   AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, to_regnamespace('read'))
   AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
 UNION ALL
SELECT format('views of these tables: %s of %s for %s', c.oid::regclass, c.relowner::regrole,
              r.oid::regrole)
  FROM views AS v JOIN pg_class AS c ON c.oid = v.oid, processes AS r
 WHERE c.relkind IN ('v', 'm') AND c.relowner <> r.oid
   AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE')
 UNION ALL
SELECT format('schema read: owner %s', nspowner::regrole) FROM pg_namespace WHERE nspname = 'read'
 UNION ALL
SELECT format('schema read: table %s of %s, not of annals_projector', name, relowner::regrole)
  FROM read_tables WHERE relowner <> to_regrole('annals_projector')
 UNION ALL
SELECT format('schema read: table %s without row security', name)
  FROM read_tables WHERE NOT (relrowsecurity AND relforcerowsecurity)
 UNION ALL
SELECT format('schema read: table %s with the policies %s', t.name, p.found)
  FROM read_tables AS t,
       LATERAL (SELECT coalesce(string_agg(p.name || ' ' || p.terms, '; ' ORDER BY p.name), '')
                  FROM policies AS p WHERE p.polrelid = t.oid) AS p(found)
 WHERE p.found <> 'every_workspace *, permissive t, to annals_projector, using true, check true; '
                  'own_workspace r, permissive t, to annals_app,'
                  ' using (workspace_id = current_workspace()), check none'
 UNION ALL
SELECT format('schema read: table %s with rule %s', t.name, r.rulename)
  FROM read_tables AS t JOIN pg_rewrite AS r ON r.ev_class = t.oid
 UNION ALL
SELECT format('schema read: table %s with trigger %s', t.name, g.tgname)
  FROM read_tables AS t JOIN pg_trigger AS g ON g.tgrelid = t.oid
 WHERE NOT g.tgisinternal
 UNION ALL
SELECT format('schema read: table %s inherited by %s', t.name, i.inhrelid::regclass)
  FROM read_tables AS t JOIN pg_inherits AS i ON i.inhparent = t.oid
"""


WHOLE_OBJECTS = frozenset(
    {
        "database",
        "functions with the rights of another role",
        "schema public",
        "schema read",
        "views of these tables",
    }
)
"""Objects of which every line that this version does not expect is a deviation."""


@cache
def expected_protections() -> frozenset[str]:
    """The protections that the migrations of this version make."""
    return frozenset(EXPECTED_FILE.read_text("utf-8").splitlines())


def load_protections(connection: Connection) -> list[str]:
    """The protections of this database, sorted."""
    return sorted(row[0] for row in connection.execute(SELECT_PROTECTIONS.encode()))


async def load_protections_async(connection: AsyncConnection) -> list[str]:
    """As `load_protections`, in an event loop."""
    cursor = await connection.execute(SELECT_PROTECTIONS.encode())
    return sorted(row[0] for row in await cursor.fetchall())


def deviations(found: Iterable[str], expected: Collection[str] | None = None) -> list[str]:
    """What protects the log less or differently than this version expects, in words.

    A table or function that this version does not know is left out, unless it lets a process do
    what its role may not.
    """
    wanted = expected_protections() if expected is None else frozenset(expected)
    present = frozenset(found)
    known = WHOLE_OBJECTS | {_object_of(line) for line in wanted}
    more = sorted(line for line in present - wanted if _object_of(line) in known)
    return [
        *(f"lacks {line}" for line in sorted(wanted - present)),
        *(f"has {line}" for line in more),
    ][:DEVIATIONS_MAX]


def _object_of(line: str) -> str:
    return line.partition(": ")[0].partition(" column ")[0]
