"""The text messages of a lead, newest first."""

from __future__ import annotations

from uuid import UUID

from readmodels.pool import AsyncConnection

SMS_PAGE_DEFAULT = 50
SMS_PAGE_MAX = 500

# The cursor is the id of the last message on the previous page.
HISTORY = """
WITH page AS (
    SELECT m.* FROM read.sms_messages AS m
     WHERE m.workspace_id = %(workspace)s AND m.lead_id = %(lead)s
       AND (%(after)s::uuid IS NULL OR (m.created_at, m.id) < (
            SELECT c.created_at, c.id FROM read.sms_messages AS c
             WHERE c.workspace_id = %(workspace)s AND c.id = %(after)s))
     ORDER BY m.created_at DESC, m.id DESC LIMIT %(limit)s + 1
), numbered AS (
    SELECT p.*, row_number() OVER (ORDER BY p.created_at DESC, p.id DESC) AS ordinal FROM page AS p
)
SELECT json_build_object(
           'sms_messages', coalesce(json_agg(json_build_object(
               'id', id, 'leadId', lead_id, 'message', message, 'status', status,
               'sentAt', created_at, 'updatedAt', updated_at,
               'phone', phone, 'templateId', template_id, 'gatewayId', gateway_id,
               'error', error, 'errorCode', error_code)
               ORDER BY ordinal) FILTER (WHERE ordinal <= %(limit)s), '[]'),
           'nextCursor', CASE WHEN count(*) > %(limit)s
                              THEN (array_agg(id ORDER BY ordinal))[%(limit)s] END)::text,
       EXISTS (SELECT FROM read.leads AS l
                WHERE l.workspace_id = %(workspace)s AND l.id = %(lead)s) OR count(*) > 0
  FROM numbered
"""
WAITING = """
SELECT count(*) FROM (
    SELECT FROM read.sms_messages
     WHERE workspace_id = %s AND status = 'pending' LIMIT %s) AS waiting
"""
WAITING_MAX = 10_000
"""Waiting messages are counted up to here."""


async def sms_history(
    connection: AsyncConnection,
    workspace_id: UUID,
    lead_id: UUID,
    *,
    after: UUID | None = None,
    limit: int = SMS_PAGE_DEFAULT,
) -> bytes | None:
    """`{sms_messages, nextCursor}` as JSON; None if neither the lead nor a message exists."""
    parameters = {"workspace": workspace_id, "lead": lead_id, "after": after, "limit": limit}
    row = await (await connection.execute(HISTORY, parameters)).fetchone()
    assert row is not None
    return row[0].encode() if row[1] else None


async def waiting_messages(connection: AsyncConnection, workspace_id: UUID) -> int:
    """Number of the workspace's messages not yet sent to the gateway, at most `WAITING_MAX`."""
    row = await (await connection.execute(WAITING, (workspace_id, WAITING_MAX))).fetchone()
    assert row is not None
    return int(row[0])
