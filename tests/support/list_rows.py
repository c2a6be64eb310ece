"""Thousands of rows for the lists, written into the read tables by one statement each."""

from __future__ import annotations

from eventlog.connections import Connection
from tests.support.kinds import DESCRIBED_KINDS
from tests.support.oracle import SEARCHED

COMMON = """
    custom_fields, created_at, updated_at, version, workspace_id, id, assigned_to, {columns})
SELECT '{{}}', '2026-01-01Z'::timestamptz + i * interval '1 minute', '2026-01-01Z', 1,
       lpad(to_hex(1 + i % 2), 32, '0')::uuid, lpad(to_hex(i), 32, '0')::uuid,
       lpad(to_hex(i % 20), 32, '0')::uuid, {values}
  FROM generate_series(1, {rows}) AS i
"""
NAME = "md5(i::text) || ' ' || md5((-i)::text)"
ON_ACCOUNT = "lpad(to_hex(i), 32, '0')::uuid"
STATUS = "(ARRAY['scheduled', 'held', 'cancelled'])[1 + i % 3]"
CONTENTS = {
    "accounts": (
        """company, type, status, priority, contact_count, task_count, meeting_count, note_count,
           open_opportunity_count, contact_names_folded""",
        f"""{NAME}, (ARRAY['investor', 'customer', 'partner'])[1 + i % 3],
           (ARRAY['prospect', 'active', 'churned'])[1 + i % 3],
           (ARRAY['low', 'high'])[1 + i % 2], 1, 1, 1, 1, 1, '{{}}'""",
    ),
    "appointments": (
        "account_id, title, status, member_id, lead_id, starts_at, ends_at, allow_overlap",
        f"""{ON_ACCOUNT}, {NAME}, {STATUS}, lpad(to_hex(i % 20), 32, '0')::uuid, {ON_ACCOUNT},
           '2026-01-01Z'::timestamptz + i * interval '1 minute', '2027-01-01Z', false""",
    ),
    "contacts": ("account_id, name", f"{ON_ACCOUNT}, {NAME}"),
    "leads": (
        "name, company, email, status, status_changed_at, source, sms_opt_out",
        f"""{NAME}, {NAME}, {NAME}, (ARRAY['new', 'contacted', 'won'])[1 + i % 3],
           '2026-01-01Z'::timestamptz + i * interval '1 minute',
           (ARRAY['fair', 'web'])[1 + i % 2], false""",
    ),
    "meetings": ("account_id, title, status", f"{ON_ACCOUNT}, {NAME}, {STATUS}"),
    "members": ("name, is_deleted", f"{NAME}, false"),
    "notes": ("account_id, body", f"{ON_ACCOUNT}, {NAME}"),
    "opportunities": (
        "account_id, name, stage",
        f"{ON_ACCOUNT}, {NAME}, (ARRAY['won', 'lost', 'engaging'])[1 + i % 3]",
    ),
    "tasks": (
        "account_id, title, status",
        f"{ON_ACCOUNT}, {NAME}, (ARRAY['todo', 'done'])[1 + i % 2]",
    ),
    **{
        each.kind.PLURAL: (
            each.many_rows[0],
            each.many_rows[1].format(account=ON_ACCOUNT, name=NAME),
        )
        for each in DESCRIBED_KINDS
    },
}


def insert_rows(connection: Connection, table: str, rows: int) -> None:
    """Insert rows with the ids 1, 2, …, into the workspaces 2 and 1 in turn, without counts."""
    columns, values = CONTENTS[table]
    names = SEARCHED[table].split()
    columns += "".join(f", {name}_folded" for name in names)
    values += f", {NAME}" * len(names)
    statement = f"INSERT INTO read.{table} ({COMMON}"
    connection.execute(statement.format(columns=columns, values=values, rows=rows).encode())
