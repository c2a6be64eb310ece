"""A digest of an event, the same in Python and SQL, to compare readers with the log.

It is the first 60 bits of the MD5 of all columns of the event as they are stored. It finds faults,
but is no proof against forgery.
"""

from __future__ import annotations

import hashlib

DIGESTED = (
    "position",
    "workspace_id",
    "stream_id",
    "stream_version",
    "topic",
    "account_id",
    "occurred_at",
    "recorded_at",
    "data",
    "metadata",
)
"""The columns of `events`, in the order in which they are digested."""


def _text(column: str) -> str:
    """SQL for the text of a column; a time is in UTC, whatever the session's time zone is."""
    if column.endswith("_at"):
        return f"replace(({column} AT TIME ZONE 'UTC')::text, ' ', 'T')"
    return f"coalesce({column}::text, '')"


DIGEST_SQL = f"""('x' || left(md5(concat_ws('|', {", ".join(map(_text, DIGESTED))})), 15)
)::bit(60)::bigint"""
"""The digest of a row of `events`."""
UTC_CHARS = len("+00:00")


def event_digest(
    position: int,
    workspace: str,
    stream: str,
    version: int,
    topic: str,
    account: str | None,
    occurred_at: str,
    recorded_at: str,
    data: bytes,
    metadata: bytes,
) -> int:
    """Compute the digest from the texts that the database holds; times are ISO 8601 in UTC."""
    head = (
        f"{position}|{workspace}|{stream}|{version}|{topic}|{account or ''}"
        f"|{occurred_at[:-UTC_CHARS]}|{recorded_at[:-UTC_CHARS]}|"
    ).encode()
    return digest_of(head + data + b"|" + metadata)


def digest_of(text: bytes) -> int:
    """Compute the digest from the digested columns, joined by `|`; times have no time zone."""
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[:8], "big") >> 4
