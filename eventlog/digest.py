"""A digest of an event, the same in Python and SQL, to compare readers with the log.

It is the first 60 bits of the MD5 of position, stream, version, topic, data and metadata as they
are stored. It finds faults, but is no proof against forgery.
"""

from __future__ import annotations

import hashlib

DIGEST_SQL = """('x' || left(md5(concat_ws('|', position, stream_id, stream_version, topic,
                                         data::text, metadata::text)), 15))::bit(60)::bigint"""
"""The digest of a row of `events`."""


def event_digest(
    position: int, stream_id: str, version: int, topic: str, data: bytes, metadata: bytes
) -> int:
    """Compute the digest from the texts that the database holds."""
    head = f"{position}|{stream_id}|{version}|{topic}|".encode()
    digest = hashlib.md5(head + data + b"|" + metadata, usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") >> 4
