"""The entities that exist when rows are decided, and the keys and ids by which rows find them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b
from typing import Protocol
from uuid import UUID

from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from eventlog.connections import Connection
from eventlog.reading.entities import existing_ids
from eventlog.store.log import EventLog

KEY_HASH_BYTES = 12
ID_BITS = 128
SEPARATOR = "\x1f"

DedupeKey = tuple[str, ...]
ContactsOf = Callable[
    [Connection, UUID, Collection[UUID]], Iterable[tuple[UUID, UUID, FieldValues]]
]
"""Reads the contacts of accounts in a workspace: account, id, and values with name and e-mail."""


def key_part(text: str | None) -> str:
    """A part of a key. Case and the number of spaces make no difference."""
    return " ".join((text or "").split()).casefold()


def contact_key(values: FieldValues) -> DedupeKey:
    """The key of a contact within its account: the e-mail address, without one the name."""
    email = key_part(values.get("email"))
    return ("email", email) if email else ("name", key_part(values.get("name")))


class KeyIndex:
    """Ids by key, in 64 bytes of memory each: a hash of the key, and the id.

    The hash has 96 bits: among ten million keys two collide with a probability of 1e-15. If several
    entities have the same key, the one with the least id (the oldest) is found.
    """

    def __init__(self, entries: Iterable[tuple[UUID, Iterable[str | None]]] = ()) -> None:
        self._entries = sorted(
            _key_hash(key) << ID_BITS | entity_id.int
            for entity_id, parts in entries
            if any(key := tuple(key_part(part) for part in parts))
        )

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: DedupeKey) -> UUID | None:
        """The id of the entity with this key."""
        hashed = _key_hash(key)
        at = bisect_left(self._entries, hashed << ID_BITS)
        if at == len(self._entries) or self._entries[at] >> ID_BITS != hashed:
            return None
        return UUID(int=self._entries[at] & (1 << ID_BITS) - 1)


def _key_hash(key: DedupeKey) -> int:
    text = SEPARATOR.join(key)
    return int.from_bytes(blake2b(text.encode(), digest_size=KEY_HASH_BYTES).digest())


class ImportIds:
    """Derives the ids of the records that one import creates: the same key gives the same id.

    UUIDs of version 8 (RFC 9562): the time of the import's id, 12 bits of its hash, and a hash of
    the key. So the ids of one import are adjacent in an index and differ from all others.
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

    def includes(self, entity_id: UUID) -> bool:
        """Whether the id is one of this import's."""
        return entity_id.int >> 64 == self._head


class ExistingRecords(Protocol):
    """The entities that exist. Each method is called once per batch, for one statement."""

    def existing_ids(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these ids that exist, deleted or not."""
        ...

    def load(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        """The entities with these ids, deleted or not."""
        ...

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        """Account, id, and values with name and e-mail of these accounts' contacts."""
        ...


class LogRecords(ExistingRecords):
    """The entities of the log, read within an open transaction."""

    def __init__(
        self, log: EventLog, connection: Connection, workspace_id: UUID, contacts_of: ContactsOf
    ) -> None:
        self._log = log
        self._connection = connection
        self._workspace_id = workspace_id
        self._contacts_of = contacts_of

    def existing_ids(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these ids that exist, deleted or not."""
        return existing_ids(self._connection, self._workspace_id, ids) if ids else set()

    def load(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        """The entities with these ids, deleted or not."""
        return self._log.load_many(Entity, ids) if ids else {}

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        """Account, id, and values with name and e-mail of these accounts' contacts."""
        if not account_ids:
            return ()
        return self._contacts_of(self._connection, self._workspace_id, account_ids)
