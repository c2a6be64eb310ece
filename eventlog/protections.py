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
# that role change something.
SELECT_PROTECTIONS = """
WITH processes AS (
    SELECT oid FROM pg_roles
     WHERE rolname IN ('annals_app', 'annals_projector', 'annals_sender')
), tables AS (
    SELECT c.oid, c.relname::text AS name, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
           c.relacl, c.relkind
      FROM pg_class AS c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S')
       AND NOT c.relispartition
       AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
), functions AS (
    SELECT p.oid, p.oid::regprocedure::text AS name, p.proowner, p.prosecdef, p.proconfig, p.prosrc,
           coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
      FROM pg_proc AS p
     WHERE p.pronamespace = 'public'::regnamespace
       AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
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
)
SELECT format('table %s: owner %s, row security %s, forced %s', name, relowner::regrole,
              relrowsecurity, relforcerowsecurity)
  FROM tables WHERE relkind <> 'S'
 UNION ALL
SELECT format('table %s: trigger %s, enabled %s, %s', t.name, g.tgname, g.tgenabled,
              regexp_replace(pg_get_triggerdef(g.oid), '^CREATE (CONSTRAINT )?TRIGGER \\S+ ', ''))
  FROM tables AS t JOIN pg_trigger AS g ON g.tgrelid = t.oid
 WHERE NOT g.tgisinternal
 UNION ALL
SELECT format('table %s: policy %s, %s, permissive %s, to %s, using %s, check %s', t.name,
              p.polname, p.polcmd, p.polpermissive,
              (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END, ', '
                                 ORDER BY r::regrole::text) FROM unnest(p.polroles) AS r),
              pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  FROM tables AS t JOIN pg_policy AS p ON p.polrelid = t.oid
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
SELECT format('role %s: superuser %s, bypasses row security %s, creates roles %s, member of %s',
              r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole,
              array(SELECT m.roleid::regrole::text FROM pg_auth_members AS m
                     WHERE m.member = r.oid ORDER BY 1))
  FROM pg_roles AS r WHERE r.oid IN (SELECT oid FROM processes)
 UNION ALL
SELECT format('schema read: owner %s', nspowner::regrole) FROM pg_namespace WHERE nspname = 'read'
 UNION ALL
SELECT format('schema read: table %s without row security', c.relname) FROM pg_class AS c
 WHERE c.relnamespace = to_regnamespace('read') AND c.relkind IN ('r', 'p')
   AND NOT (c.relrowsecurity AND c.relforcerowsecurity
            AND array(SELECT polname FROM pg_policy WHERE polrelid = c.oid ORDER BY 1)
                = '{every_workspace,own_workspace}'::name[])
"""


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

    A table or function that this version does not know is left out.
    """
    wanted = expected_protections() if expected is None else frozenset(expected)
    present = frozenset(found)
    known = {_object_of(line) for line in wanted}
    more = sorted(line for line in present - wanted if _object_of(line) in known)
    return [
        *(f"lacks {line}" for line in sorted(wanted - present)),
        *(f"has {line}" for line in more),
    ][:DEVIATIONS_MAX]


def _object_of(line: str) -> str:
    return line.partition(": ")[0].partition(" column ")[0]
