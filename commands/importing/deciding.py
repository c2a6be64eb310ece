"""From planned rows to entities with events pending: what is new, what changes, what is left alone.

A batch of rows is decided on what exists at that time (`ExistingRecords`), in the order of the
file. Nothing is written here. A preview decides on an overlay that holds what would exist by then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from commands.importing.findings import Finding
from commands.importing.keyindex import Ids, KeyIndex
from commands.importing.options import ACCOUNT, ImportOptions, Mode
from commands.importing.planning import (
    DedupeKey,
    ImportedRow,
    dedupe_key,
    key_of_contact,
)
from commands.links import MEMBER_FIELDS
from domain.contact import Contact
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.kinds import KINDS
from domain.shared.refusals import AccountUnavailable, Refusal

TICK = timedelta(microseconds=1)


class RowResult(StrEnum):
    """What becomes of a row."""

    CREATED = "created"
    UPDATED = "updated"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class RowOutcome:
    """A row, what becomes of it, and what there is to say about it."""

    row: ImportedRow
    result: RowResult
    findings: tuple[Finding, ...]


@dataclass
class Decided:
    """The rows of a batch with their outcomes, and the entities in which events are pending."""

    outcomes: list[RowOutcome] = field(default_factory=list)
    entities: list[Entity] = field(default_factory=list)


class ExistingRecords(Protocol):
    """What there is: asked once for a batch, so that each question is one statement."""

    def made(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these ids that there is (or was) something by."""
        ...

    def entities(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        """The entities with these ids, deleted or not."""
        ...

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        """Account, id, and name and e-mail of the contacts of these accounts."""
        ...

    def hold(self, account_ids: Collection[UUID]) -> None:
        """Nobody deletes these accounts before what is decided here is recorded."""
        ...


@dataclass(frozen=True)
class _Candidate:
    """A good row, the id that it would get, and the id of what was there before by its key."""

    row: ImportedRow
    own: UUID
    known: UUID | None

    @property
    def parents(self) -> tuple[UUID, ...]:
        """Accounts to which the contact of the row may come."""
        return (self.own,) if self.known is None else (self.own, self.known)


class Decider:
    """Decides the rows of one import, batch by batch."""

    def __init__(
        self, options: ImportOptions, workspace_id: UUID, ids: Ids, known: KeyIndex
    ) -> None:
        self._options = options
        self._workspace_id = workspace_id
        self._ids = ids
        self._known = known

    def decide(self, rows: Sequence[ImportedRow], world: ExistingRecords, now: datetime) -> Decided:
        """What becomes of these rows."""
        aims = {row.number: aim for row in rows if row.is_good and (aim := self._aim(row))}
        deciding = _Deciding(self._options, self._workspace_id, self._ids, world, now)
        deciding.look(list(aims.values()))
        for row in rows:
            deciding.take(row, aims.get(row.number))
        return deciding.decided()

    def _aim(self, row: ImportedRow) -> _Candidate | None:
        """None where the row has no key, and so cannot be told from others."""
        if not self._options.dedupe_by:
            return _Candidate(row, self._ids.of("row", str(row.number)), None)
        key = dedupe_key(row, self._options.dedupe_by)
        if key is None:
            return None
        known = None if self._options.mode is Mode.CREATE else self._known.find(key)
        if known is not None and self._ids.has_made(known):
            known = None
        return _Candidate(row, self._ids.of("key", *key), known)


class _Deciding:
    """One batch on its way."""

    def __init__(
        self,
        options: ImportOptions,
        workspace_id: UUID,
        ids: Ids,
        world: ExistingRecords,
        now: datetime,
    ) -> None:
        self._options = options
        self._workspace_id = workspace_id
        self._ids = ids
        self._world = world
        self._now = now
        self._made: set[UUID] = set()
        self._contacts: dict[tuple[UUID, DedupeKey], UUID] = {}
        self._contact_ids: dict[tuple[UUID, int], UUID] = {}
        self._entities: dict[UUID, Entity] = {}
        """What was there before this batch, as far as it matters."""
        self._changed: dict[UUID, Entity] = {}
        self._outcomes: list[RowOutcome] = []

    def look(self, aims: Sequence[_Candidate]) -> None:
        """Ask the world for all that these rows need."""
        with_contact = [(aim, parent) for aim in aims if aim.row.contact for parent in aim.parents]
        contacts = {self._contact_id(parent, aim.row) for aim, parent in with_contact}
        self._made = self._world.made({aim.own for aim in aims} | contacts)
        parents = {
            parent for aim, parent in with_contact if parent in self._made or parent == aim.known
        }
        for account_id, contact_id, facts in self._world.contacts(parents):
            if not self._ids.has_made(contact_id):
                self._contacts.setdefault((account_id, key_of_contact(facts)), contact_id)
        held = parents | {aim.row.account_id for aim in aims if aim.row.account_id}
        self._world.hold(held)
        wanted = held | {
            UUID(id_)
            for aim in aims
            for name in (*MEMBER_FIELDS, *self._options.kind.REFERENCES)
            if (id_ := aim.row.values.get(name))
        }
        if self._options.mode is Mode.UPDATE:
            wanted |= self._made | {aim.known for aim in aims if aim.known}
            wanted |= {
                found
                for aim, parent in with_contact
                if (found := self._contacts.get((parent, _contact_key(aim.row))))
            }
        self._entities = dict(self._world.entities(wanted))

    def take(self, row: ImportedRow, aim: _Candidate | None) -> None:
        """Decide one row. Each is a microsecond later, so that lists keep the order of the file."""
        self._now += TICK
        if not row.is_good:
            self._say(row, RowResult.FAILED)
        elif aim is None:
            names = " and ".join(self._options.dedupe_by)
            message = f"Without {names} the row cannot be told from others."
            self._say(row, RowResult.FAILED, row.failure("", "no_key", message))
        elif missing := self._missing(row):
            self._say(row, RowResult.FAILED, missing)
        else:
            try:
                result = self._apply(aim)
            except Refusal as refusal:
                self._say(row, RowResult.FAILED, *row.refused(refusal))
            else:
                self._say(row, result)

    def decided(self) -> Decided:
        """What came of it."""
        return Decided(self._outcomes, list(self._changed.values()))

    def _missing(self, row: ImportedRow) -> Finding | None:
        """What the row refers to, and is not there any more."""
        if row.account_id is not None and not self._is_there(row.account_id):
            return row.failure(ACCOUNT, "account_gone", "The account was deleted meanwhile.")
        for name in MEMBER_FIELDS:
            member = row.values.get(name)
            if member is not None and not self._is_there(UUID(member)):
                return row.failure(name, "member_gone", "The member was deleted meanwhile.")
        for name, kind in self._options.kind.REFERENCES.items():
            named = row.values.get(name)
            if named is not None and not self._is_there(UUID(named), KINDS[kind]):
                return row.failure(name, "reference_gone", f"There is no such {kind}.")
        return None

    def _apply(self, aim: _Candidate) -> RowResult:
        """Both or neither: what may refuse the contact is asked first."""
        target = self._target(aim)
        if aim.row.contact is None:
            return self._apply_row(aim.row, target)
        contact = self._contact_of(target, aim.row)
        if contact is not None:
            Contact.FIELDS.validated(aim.row.revised_contact(contact))
        result = self._apply_row(aim.row, target)
        of_contact = self._apply_contact(aim.row, aim.row.contact, target, contact)
        return of_contact if result is RowResult.SKIPPED else result

    def _target(self, aim: _Candidate) -> UUID:
        """The id of what the row is about, whether it is there or not."""
        known = aim.known
        if known is None or aim.own in self._changed or aim.own in self._made:
            return aim.own
        before = self._entities.get(known)
        # It was deleted since the keys were read: the row makes a new one.
        return aim.own if before is not None and before.is_deleted else known

    def _apply_row(self, row: ImportedRow, target: UUID) -> RowResult:
        is_new = self._ids.has_made(target) and target not in self._made
        if is_new and target not in self._changed:
            self._changed[target] = row.create(target, self._workspace_id, self._now)
            return RowResult.CREATED
        if self._options.mode is not Mode.UPDATE:
            return RowResult.SKIPPED
        entity = self._changed.get(target) or self._entities[target]
        return self._revised(entity, row.revise)

    def _contact_of(self, account_id: UUID, row: ImportedRow) -> Entity | None:
        """The contact that a row is about, where it is loaded and there."""
        own = self._contact_id(account_id, row)
        found = own if self._is_made(own) else self._contacts.get((account_id, _contact_key(row)))
        contact = self._now_there(found) if found else None
        return None if contact is None or contact.is_deleted else contact

    def _apply_contact(
        self, row: ImportedRow, facts: FieldValues, account_id: UUID, contact: Entity | None
    ) -> RowResult:
        own = self._contact_id(account_id, row)
        if not self._is_made(own) and (account_id, _contact_key(row)) not in self._contacts:
            if not self._is_there(account_id):
                raise AccountUnavailable(account_id)
            at = row.steps[0].at or self._now
            self._changed[own] = Contact.create(
                own, self._workspace_id, facts, at=at, account_id=account_id
            )
            return RowResult.CREATED
        if contact is None or self._options.mode is not Mode.UPDATE:
            return RowResult.SKIPPED
        return self._revised(contact, row.revise_contact)

    def _revised(self, entity: Entity, revise: Callable[[Entity, datetime], None]) -> RowResult:
        before = len(entity.pending_events)
        revise(entity, self._now)
        if len(entity.pending_events) == before:
            return RowResult.SKIPPED
        self._changed[entity.id] = entity
        return RowResult.UPDATED

    def _is_made(self, entity_id: UUID) -> bool:
        return entity_id in self._made or entity_id in self._changed

    def _now_there(self, entity_id: UUID) -> Entity | None:
        return self._changed.get(entity_id) or self._entities.get(entity_id)

    def _is_there(self, entity_id: UUID, kind: type[Entity] = Entity) -> bool:
        entity = self._now_there(entity_id)
        return isinstance(entity, kind) and not entity.is_deleted

    def _contact_id(self, account_id: UUID, row: ImportedRow) -> UUID:
        found = self._contact_ids.get((account_id, row.number))
        if found is None:
            found = self._ids.of("contact", str(account_id), *_contact_key(row))
            self._contact_ids[account_id, row.number] = found
        return found

    def _say(self, row: ImportedRow, result: RowResult, *more: Finding) -> None:
        self._outcomes.append(RowOutcome(row, result, (*row.findings, *more)))


def _contact_key(row: ImportedRow) -> DedupeKey:
    assert row.contact is not None
    return key_of_contact(row.contact)
