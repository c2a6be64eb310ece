"""Decide planned rows against the existing entities: create, update, skip, or fail.

A batch of rows is decided in the order of the file, on one set of loaded entities. The events are
staged in it; the caller appends them. A preview decides the same way and appends nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol
from uuid import UUID

from commands.importing.cells import Lookup
from commands.importing.issues import ImportIssue
from commands.importing.mapping import ACCOUNT, CUSTOM_PREFIX, Column, ImportOptions, Mode
from commands.importing.rows import Directory, PlannedRow, RowPlanner
from commands.links import MEMBER_FIELDS
from commands.loaded import LoadedEntities
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.fields import CUSTOM, FieldValues
from domain.shared.kinds import KINDS
from domain.shared.refusals import AccountUnavailable, Refusal
from domain.shared.text import folded
from eventlog.connections import Connection
from eventlog.reading.entities import existing_ids
from eventlog.scope import Scope
from eventlog.store.log import EventLog

TICK = timedelta(microseconds=1)
KEY_HASH_BYTES = 12
ID_BITS = 128
SEPARATOR = "\x1f"

DedupeKey = tuple[str, ...]
ContactsOf = Callable[
    [Connection, UUID, Collection[UUID]], Iterable[tuple[UUID, UUID, FieldValues]]
]
"""Reads the contacts of accounts in a workspace: account, id, and values with name and e-mail."""


def key_part(text: str | None) -> str:
    """A part of a key. Case, accents and the number of spaces make no difference."""
    return " ".join(folded(text or "").split())


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
    """The entities that exist. Each method takes the ids of a whole batch, for one statement."""

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
        return existing_ids(self._connection, self._workspace_id, ids) if ids else set()

    def load(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        return self._log.load_many(Entity, ids) if ids else {}

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        if not account_ids:
            return ()
        return self._contacts_of(self._connection, self._workspace_id, account_ids)


class RowResult(StrEnum):
    """What happened to a row."""

    CREATED = "created"
    UPDATED = "updated"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class RowOutcome:
    """A row, what happened to it, and all issues of its cells."""

    row: PlannedRow
    result: RowResult
    issues: tuple[ImportIssue, ...]

    @property
    def reported(self) -> tuple[ImportIssue, ...]:
        """The issues that are reported: none of a row that was skipped."""
        return () if self.result is RowResult.SKIPPED else self.issues


@dataclass(frozen=True)
class Decided:
    """The outcomes of a batch of rows, and the entities with the events that are staged."""

    outcomes: Sequence[RowOutcome]
    entities: LoadedEntities


@dataclass(frozen=True)
class ReadTables:
    """The queries that imports need, run on the connection of an open transaction."""

    names: Callable[[Connection, UUID, str, str], Iterable[tuple[str, UUID]]]
    """Name (the field of this wire name) and id of every entity in a list."""
    keys: Callable[
        [Connection, UUID, str, Sequence[str]], Iterable[tuple[UUID, tuple[str | None, ...]]]
    ]
    """Id and these fields of every entity in a list, as text."""
    contacts_of: ContactsOf


def open_import_engine(
    log: EventLog,
    scope: Scope,
    tables: ReadTables,
    options: ImportOptions,
    columns: Sequence[Column],
    import_id: UUID,
    clock: Callable[[], datetime],
) -> ImportEngine:
    """Create the engine of an import from the names and keys of existing entities.

    They are read from the read tables, which have to be up to date.
    """
    fields = {each.field for each in columns}

    def names(referring: Iterable[str], plural: str, name: str) -> Lookup[UUID]:
        """The entities of a list by name, if a column refers to them."""
        if fields.isdisjoint(referring):
            return Lookup(())
        return Lookup(tables.names(connection, scope.workspace_id, plural, name))

    with log.transaction(scope) as connection:
        directory = Directory(
            accounts=names((ACCOUNT,), Account.PLURAL, "company"),
            members=names(MEMBER_FIELDS, Member.PLURAL, "name"),
        )
        keys = KeyIndex()
        if options.dedupe_by and options.mode is not Mode.CREATE:
            plural, by = options.kind.PLURAL, options.dedupe_by
            keys = KeyIndex(tables.keys(connection, scope.workspace_id, plural, by))
    planner = RowPlanner(options, columns, directory, clock)
    return ImportEngine(
        log, scope, options, planner, ImportIds(import_id), keys, tables.contacts_of
    )


@dataclass(frozen=True)
class ImportEngine:
    """Plans and decides the rows of one import. `keys` are those of older entities."""

    log: EventLog
    scope: Scope
    options: ImportOptions
    planner: RowPlanner
    ids: ImportIds
    keys: KeyIndex
    contacts_of: ContactsOf

    def records(self, connection: Connection) -> LogRecords:
        """The entities that exist in this transaction."""
        return LogRecords(self.log, connection, self.scope.workspace_id, self.contacts_of)

    def decide(
        self,
        rows: Sequence[PlannedRow],
        existing: ExistingRecords,
        now: datetime,
        *,
        is_preview: bool = False,
    ) -> Decided:
        """Decide a batch of rows within a transaction. A preview locks no accounts."""
        candidates = {
            row.number: candidate
            for row in rows
            if row.is_valid and (candidate := self._candidate(row))
        }
        entities = LoadedEntities(self.log, read=existing.load, is_preview=is_preview)
        batch = _Batch(self, existing, entities, now)
        batch.load(candidates.values())
        for row in rows:
            batch.decide(row, candidates.get(row.number))
        return batch.decided()

    def _candidate(self, row: PlannedRow) -> _Candidate | None:
        """The row with the ids that it may have; None if it lacks a key."""
        if not self.options.dedupe_by:
            return _candidate(row, self.ids.of("row", str(row.number)), None)
        key = tuple(_key_part(row, name) for name in self.options.dedupe_by)
        if not any(key):
            return None
        known = None if self.options.mode is Mode.CREATE else self.keys.find(key)
        if known is not None and self.ids.includes(known):
            known = None
        return _candidate(row, self.ids.of("key", *key), known)


def _key_part(row: PlannedRow, name: str) -> str:
    if name == ACCOUNT:
        return str(row.account_id or "")
    if name.startswith(CUSTOM_PREFIX):
        return key_part(row.values.get(CUSTOM, {}).get(name[len(CUSTOM_PREFIX) :]))
    return key_part(row.values.get(name))


@dataclass(frozen=True)
class _Candidate:
    """A valid row, its id as a new entity, and the id of an older entity with the same key."""

    row: PlannedRow
    new_id: UUID
    known_id: UUID | None
    contact_key: DedupeKey
    """The key of the row's contact; empty if it has none."""

    @property
    def parent_ids(self) -> tuple[UUID, ...]:
        """The accounts to which the contact of the row may belong."""
        return (self.new_id,) if self.known_id is None else (self.new_id, self.known_id)


def _candidate(row: PlannedRow, new_id: UUID, known_id: UUID | None) -> _Candidate:
    return _Candidate(row, new_id, known_id, contact_key(row.contact) if row.contact else ())


class _Batch:
    """The decisions on one batch of rows."""

    def __init__(
        self,
        engine: ImportEngine,
        existing: ExistingRecords,
        entities: LoadedEntities,
        now: datetime,
    ) -> None:
        self._options = engine.options
        self._workspace_id = engine.scope.workspace_id
        self._ids = engine.ids
        self._existing = existing
        self._now = now
        self._existing_ids: set[UUID] = set()
        """Which of the ids that this import derives are in the log already."""
        self._contacts: dict[tuple[UUID, DedupeKey], UUID] = {}
        self._contact_ids: dict[tuple[UUID, DedupeKey], UUID] = {}
        """Ids that were derived already: a batch needs each of them twice."""
        self._entities = entities
        self._loaded_ids: set[UUID] = set()
        """The entities from before this batch that its rows concern."""
        self._row_entities: dict[UUID, Entity] = {}
        """The entities that the current row creates or changes; staged once the row is accepted."""
        self._outcomes: list[RowOutcome] = []

    def load(self, candidates: Collection[_Candidate]) -> None:
        """Load what these rows need, with one statement per kind of data."""
        with_contact = [
            (each, parent_id)
            for each in candidates
            if each.contact_key
            for parent_id in each.parent_ids
        ]
        contact_ids = {
            self._contact_id(parent_id, each.contact_key) for each, parent_id in with_contact
        }
        self._existing_ids = self._existing.existing_ids(
            {each.new_id for each in candidates} | contact_ids
        )
        parents = {
            parent_id
            for each, parent_id in with_contact
            if parent_id in self._existing_ids or parent_id == each.known_id
        }
        for account_id, contact_id, values in self._existing.contacts(parents):
            if not self._ids.includes(contact_id):
                self._contacts.setdefault((account_id, contact_key(values)), contact_id)
        accounts = parents | {each.row.account_id for each in candidates if each.row.account_id}
        self._entities.lock_accounts(shared=accounts)
        wanted = accounts | {
            UUID(id_)
            for each in candidates
            for name in (*MEMBER_FIELDS, *self._options.kind.REFERENCES)
            if (id_ := each.row.values.get(name))
        }
        if self._options.mode is Mode.UPDATE:
            wanted |= self._existing_ids | {each.known_id for each in candidates if each.known_id}
            wanted |= {
                found
                for each, parent_id in with_contact
                if (found := self._contacts.get((parent_id, each.contact_key)))
            }
        self._entities.load(wanted)
        self._loaded_ids = wanted

    def decide(self, row: PlannedRow, candidate: _Candidate | None) -> None:
        """Decide one row, a microsecond after the one before: lists keep the order of the file."""
        self._now += TICK
        if not row.is_valid:
            self._add(row, RowResult.FAILED)
        elif candidate is None:
            names = " and ".join(self._options.dedupe_by)
            message = f"Without {names} the row cannot be distinguished from others."
            self._add(row, RowResult.FAILED, row.error("", "no_key", message))
        elif missing := self._missing_reference(row):
            self._add(row, RowResult.FAILED, missing)
        else:
            self._row_entities = {}
            try:
                result = self._apply(candidate)
            except Refusal as refusal:
                self._entities.discard(self._row_entities)
                self._add(row, RowResult.FAILED, *row.issues_of(refusal))
            else:
                self._entities.stage(*self._row_entities.values())
                self._add(row, result)
            self._row_entities = {}

    def decided(self) -> Decided:
        """The decisions so far."""
        return Decided(self._outcomes, self._entities)

    def _add(self, row: PlannedRow, result: RowResult, *issues: ImportIssue) -> None:
        self._outcomes.append(RowOutcome(row, result, (*row.issues, *issues)))

    def _missing_reference(self, row: PlannedRow) -> ImportIssue | None:
        """An error if the row refers to something that does not exist any more."""
        if row.account_id is not None and not self._is_available(row.account_id):
            return row.error(ACCOUNT, "account_gone", "The account was deleted meanwhile.")
        for name in MEMBER_FIELDS:
            member_id = row.values.get(name)
            if member_id is not None and not self._is_available(UUID(member_id)):
                return row.error(name, "member_gone", "The member was deleted meanwhile.")
        for name, kind in self._options.kind.REFERENCES.items():
            referred_id = row.values.get(name)
            if referred_id is not None and not self._is_available(UUID(referred_id), KINDS[kind]):
                return row.error(name, "reference_gone", f"There is no such {kind}.")
        return None

    def _apply(self, candidate: _Candidate) -> RowResult:
        """Create or change the entity and its contact: both, or neither if one is refused."""
        row, target_id = candidate.row, self._target_id(candidate)
        if row.contact is None:
            return self._apply_row(row, target_id)
        key = candidate.contact_key
        contact_id = self._contact_id(target_id, key)
        if not self._has_created(contact_id):
            contact_id = self._contacts.get((target_id, key), contact_id)
        contact = self._current(contact_id)
        if contact is not None and not contact.is_deleted:
            Contact.FIELDS.validated(row.contact_values(contact))
        result = self._apply_row(row, target_id)
        of_contact = self._apply_contact(row, row.contact, target_id, contact_id)
        return of_contact if result is RowResult.SKIPPED else result

    def _target_id(self, candidate: _Candidate) -> UUID:
        """The id of the entity that the row is about, new or not."""
        known_id = candidate.known_id
        if known_id is None or self._has_created(candidate.new_id):
            return candidate.new_id
        known = self._current(known_id)
        # It was deleted after the keys had been read: the row creates a new one.
        return candidate.new_id if known is not None and known.is_deleted else known_id

    def _apply_row(self, row: PlannedRow, target_id: UUID) -> RowResult:
        if self._ids.includes(target_id) and not self._has_created(target_id):
            created = row.create(target_id, self._workspace_id, self._now)
            self._row_entities[target_id] = created
            return RowResult.CREATED
        if self._options.mode is not Mode.UPDATE:
            return RowResult.SKIPPED
        return self._revise(self._entities.get(Entity, target_id), row.revise)

    def _apply_contact(
        self, row: PlannedRow, values: FieldValues, account_id: UUID, contact_id: UUID
    ) -> RowResult:
        if self._ids.includes(contact_id) and not self._has_created(contact_id):
            if not self._is_available(account_id):
                raise AccountUnavailable(account_id)
            at = row.steps[0].at or self._now
            self._row_entities[contact_id] = Contact.create(
                contact_id, self._workspace_id, values, at=at, account_id=account_id
            )
            return RowResult.CREATED
        contact = self._current(contact_id)
        if contact is None or contact.is_deleted or self._options.mode is not Mode.UPDATE:
            return RowResult.SKIPPED
        return self._revise(contact, row.revise_contact)

    def _revise(self, entity: Entity, revise: Callable[[Entity, datetime], None]) -> RowResult:
        self._row_entities[entity.id] = entity
        revise(entity, self._now)
        return RowResult.UPDATED if entity.pending_events else RowResult.SKIPPED

    def _has_created(self, derived_id: UUID) -> bool:
        """Whether this import has created the entity, in this batch or before."""
        return derived_id in self._existing_ids or self._is_changed(derived_id)

    def _is_changed(self, entity_id: UUID) -> bool:
        return entity_id in self._row_entities or self._entities.is_changed(entity_id)

    def _current(self, entity_id: UUID) -> Entity | None:
        """The entity, if it was loaded for the batch or a row of the batch has changed it."""
        if entity_id in self._row_entities:
            return self._row_entities[entity_id]
        if entity_id in self._loaded_ids or self._entities.is_changed(entity_id):
            return self._entities.find(Entity, entity_id)
        return None

    def _is_available(self, entity_id: UUID, kind: type[Entity] = Entity) -> bool:
        entity = self._current(entity_id)
        return isinstance(entity, kind) and not entity.is_deleted

    def _contact_id(self, account_id: UUID, key: DedupeKey) -> UUID:
        """The id of a contact that this import creates."""
        if (account_id, key) not in self._contact_ids:
            self._contact_ids[account_id, key] = self._ids.of("contact", str(account_id), *key)
        return self._contact_ids[account_id, key]
