"""API keys, for authentication and for their list, and the workspace itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from readmodels.pool import AsyncConnection

KEYS_MAX = 1_000

FIND = """
SELECT workspace_id, name, role, member_id, expires_at, secret_sha256 FROM read.find_api_key(%s)
"""

LIST = """
SELECT coalesce(json_agg(json_build_object(
           'id', id, 'name', name, 'role', role, 'memberId', member_id,
           'expiresAt', expires_at, 'createdAt', created_at, 'version', version)
           ORDER BY created_at DESC, id DESC), '[]')::text
  FROM (SELECT * FROM read.api_keys WHERE workspace_id = %s
         ORDER BY created_at DESC, id DESC LIMIT %s) AS k
"""

WORKSPACE = """
SELECT version, json_build_object('id', id, 'name', name, 'customFields', custom_fields,
           'createdAt', created_at, 'updatedAt', updated_at, 'version', version)::text
  FROM read.workspaces WHERE workspace_id = %s AND id = %s
"""


@dataclass(frozen=True)
class KeyRow:
    """An API key, with the hash of its secret."""

    workspace_id: UUID
    name: str
    role: str
    member_id: UUID | None
    expires_at: datetime | None
    secret_sha256: str


async def find_key(connection: AsyncConnection, key_id: UUID) -> KeyRow | None:
    """Find a key by id in any workspace; None if it does not exist or is revoked."""
    row = await (await connection.execute(FIND, (key_id,))).fetchone()
    return KeyRow(*row) if row else None


async def list_keys(connection: AsyncConnection, workspace_id: UUID) -> bytes:
    """The workspace's keys as a JSON array, newest first, without secrets."""
    row = await (await connection.execute(LIST, (workspace_id, KEYS_MAX))).fetchone()
    assert row is not None
    return bytes(row[0].encode())


async def workspace_detail(
    connection: AsyncConnection, workspace_id: UUID
) -> tuple[int, bytes] | None:
    """Version and JSON of the workspace itself; None if it does not exist."""
    row = await (await connection.execute(WORKSPACE, (workspace_id, workspace_id))).fetchone()
    return (row[0], row[1].encode()) if row else None
