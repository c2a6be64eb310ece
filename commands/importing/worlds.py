"""What there is when rows are decided: the log as it is now, or as a preview would have left it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from uuid import UUID

from commands.importing.deciding import Decided, ExistingRecords
from commands.importing.options import Mode
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from eventlog.connections import Connection
from eventlog.reading.entities import existing_ids
from eventlog.scope import Scope
from eventlog.store.log import EventLog

ContactsOf = Callable[
    [Connection, UUID, Collection[UUID]], Iterable[tuple[UUID, UUID, FieldValues]]
]
"""Reads the contacts of accounts in a workspace: account, id, name and e-mail."""


class LogWorld(ExistingRecords):
    """The log, within a transaction that is open."""

    def __init__(
        self, log: EventLog, connection: Connection, scope: Scope, contacts_of: ContactsOf
    ) -> None:
        self._log = log
        self._connection = connection
        self._workspace_id = scope.workspace_id
        self._contacts_of = contacts_of

    def made(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these ids that there is (or was) something by."""
        return existing_ids(self._connection, self._workspace_id, ids) if ids else set()

    def entities(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        """The entities with these ids, deleted or not."""
        return self._log.load_many(Entity, ids) if ids else {}

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        """Account, id, and name and e-mail of the contacts of these accounts."""
        if not account_ids:
            return ()
        return self._contacts_of(self._connection, self._workspace_id, account_ids)

    def hold(self, account_ids: Collection[UUID]) -> None:
        """Until the end of the transaction, nobody deletes these accounts."""
        if account_ids:
            self._log.lock_accounts(shared=account_ids)


class PreviewOverlay:
    """What a preview would have made so far. It is laid over the log batch by batch."""

    def __init__(self, mode: Mode) -> None:
        self._keeps_states = mode is Mode.UPDATE
        self._made: set[UUID] = set()
        self._states: dict[UUID, Entity] = {}
        self._any: Entity | None = None

    def over(self, world: ExistingRecords) -> ExistingRecords:
        """The world with what would have been made."""
        return _ImaginedWorld(world, self)

    def add(self, decided: Decided) -> None:
        """This would have been recorded."""
        for entity in decided.entities:
            entity.collect_events()
            self._made.add(entity.id)
            # Where nothing is updated it matters only that a thing is there: one stands for all.
            self._any = entity
            if self._keeps_states:
                self._states[entity.id] = entity

    def made(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these ids that would have been made or changed."""
        return self._made.intersection(ids)

    def entities(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        """What they would be."""
        if self._keeps_states:
            return {each: self._states[each] for each in ids if each in self._states}
        assert self._any is not None or not self._made
        return {each: self._any for each in ids if each in self._made and self._any}


class _ImaginedWorld(ExistingRecords):
    def __init__(self, world: ExistingRecords, imagined: PreviewOverlay) -> None:
        self._world = world
        self._imagined = imagined

    def made(self, ids: Collection[UUID]) -> set[UUID]:
        return self._world.made(ids) | self._imagined.made(ids)

    def entities(self, ids: Collection[UUID]) -> Mapping[UUID, Entity]:
        return {**self._world.entities(ids), **self._imagined.entities(ids)}

    def contacts(self, account_ids: Collection[UUID]) -> Iterable[tuple[UUID, UUID, FieldValues]]:
        return self._world.contacts(account_ids)

    def hold(self, account_ids: Collection[UUID]) -> None:
        """Nothing is recorded, so nothing is held."""
