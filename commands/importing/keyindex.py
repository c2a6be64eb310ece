"""What is there already, by key: found fast, and small in memory however much it is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b
from uuid import UUID

from commands.importing.planning import DedupeKey, key_part

HASH_BYTES = 12
ID_BITS = 128
SEPARATOR = "\x1f"


class KeyIndex:
    """Ids by key, 64 bytes of memory for each: a hash of the key, and the id behind it.

    Ninety-six bits of hash: among ten million keys two are alike with a probability of 1e-15.
    Where several things have a key, the one with the least id (the oldest) is found.
    """

    def __init__(self, entries: Iterable[tuple[UUID, Iterable[str | None]]] = ()) -> None:
        self._entries = sorted(
            _hash(key) << ID_BITS | entity_id.int
            for entity_id, parts in entries
            if any(key := tuple(key_part(part) for part in parts))
        )

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: DedupeKey) -> UUID | None:
        """The id of what has this key."""
        hashed = _hash(key)
        at = bisect_left(self._entries, hashed << ID_BITS)
        if at == len(self._entries) or self._entries[at] >> ID_BITS != hashed:
            return None
        return UUID(int=self._entries[at] & (1 << ID_BITS) - 1)


def _hash(key: DedupeKey) -> int:
    text = SEPARATOR.join(key)
    return int.from_bytes(blake2b(text.encode(), digest_size=HASH_BYTES).digest())


class Ids:
    """Ids of what one import makes: the same for the same key, whoever works on it and when.

    UUIDs of version 8 (RFC 9562): the time of the import's own id, 12 bits of its hash, and a hash
    of the key. So ids of one import lie side by side in an index, and are known from others.
    """

    def __init__(self, import_id: UUID) -> None:
        self._import = import_id.bytes
        tag = int.from_bytes(blake2b(self._import, digest_size=2).digest()) >> 4
        self._head = import_id.int >> 80 << 16 | 8 << 12 | tag

    def of(self, *key: str) -> UUID:
        """The id for this key."""
        content = self._import + SEPARATOR.join(key).encode()
        tail = int.from_bytes(blake2b(content, digest_size=8).digest()) >> 2
        return UUID(int=self._head << 64 | 2 << 62 | tail)

    def has_made(self, entity_id: UUID) -> bool:
        """Whether the id is one of this import's."""
        return entity_id.int >> 64 == self._head
