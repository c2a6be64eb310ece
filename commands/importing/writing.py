"""Recording the rows of an import: many in one transaction, one by one where that fails."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from eventsourcing.persistence import DataError, IntegrityError, ProgrammingError

from commands.importing.findings import Finding
from commands.importing.options import ACCOUNT, ASSIGNEE
from commands.importing.planning import ImportedRow
from domain.account import Account
from domain.entity import Entity
from domain.member import Member
from domain.refusals import NotFound, TimeTaken
from eventlog.log import EventLog
from eventlog.scope import Scope

SPOILS = (IntegrityError, DataError, ProgrammingError, TimeTaken)
"""What one row does to all that are recorded together with it."""
HOLD_BATCH = "SELECT pg_advisory_xact_lock(70, hashtext(%s))"
"""Taken in the transaction of every batch: who gets it knows that no other batch is under way."""


@dataclass(frozen=True)
class DecidedRow:
    """A row, and the entity that it became, its events pending."""

    row: ImportedRow
    entity: Entity

    def again(self, now: datetime) -> DecidedRow:
        """The same with fresh events: those of a failed append are gone."""
        entity = self.row.decide(self.entity.id, self.entity.workspace_id, now)
        return DecidedRow(self.row, entity)


@dataclass
class Written:
    """What came of a batch: the position it reached, and the rows that could not be recorded."""

    position: int = 0
    failures: dict[int, Finding] = field(default_factory=dict)


class BatchWriter:
    """Appends decided rows in one workspace."""

    def __init__(self, log: EventLog, scope: Scope) -> None:
        self._log = log
        self._scope = scope

    def settle(self) -> None:
        """Wait until no batch of an import that was cut off is still being committed."""
        with self._log.transaction(self._scope) as connection:
            connection.execute(HOLD_BATCH, (str(self._scope.workspace_id),))

    def write(self, rows: list[DecidedRow], now: datetime) -> Written:
        """Record the rows together, or one by one where one of them spoils it for all.

        Raises the library's `OperationalError` where the database cannot be reached: nothing of
        this batch is recorded then.
        """
        try:
            return self._together(rows)
        except SPOILS:
            return self._one_by_one(rows, now)

    def _one_by_one(self, rows: list[DecidedRow], now: datetime) -> Written:
        written = Written()
        for each in rows:
            try:
                alone = self._together([each.again(now)])
            except SPOILS as failure:
                message = f"It could not be recorded: {str(failure).rstrip('.')}."
                written.failures[each.row.number] = each.row.failure("", "not_recorded", message)
            else:
                written.position = max(written.position, alone.position)
                written.failures.update(alone.failures)
        return written

    def _together(self, rows: list[DecidedRow]) -> Written:
        with self._log.transaction(self._scope) as connection:
            connection.execute(HOLD_BATCH, (str(self._scope.workspace_id),))
            gone = self._gone_accounts(rows) | self._gone_members(rows)
            failures = {
                each.row.number: finding
                for each in rows
                if (finding := _missing(each, gone)) is not None
            }
            good = [each.entity for each in rows if each.row.number not in failures]
            position = self._log.append(*good) if good else None
        return Written(position or 0, failures)

    def _gone_accounts(self, rows: list[DecidedRow]) -> set[UUID]:
        """Accounts that were deleted meanwhile; the others stay until the transaction ends."""
        wanted = {each.entity.account_id for each in rows if each.entity.account_id is not None}
        for account_id in sorted(wanted):
            self._log.hold_account(account_id)
        return self._gone(Account, wanted)

    def _gone_members(self, rows: list[DecidedRow]) -> set[UUID]:
        wanted = {each.entity.facts.get(ASSIGNEE) for each in rows} - {None}
        return self._gone(Member, (UUID(member_id) for member_id in wanted if member_id))

    def _gone(self, kind: type[Entity], ids: Iterable[UUID]) -> set[UUID]:
        return {entity_id for entity_id in ids if not self._is_there(kind, entity_id)}

    def _is_there(self, kind: type[Entity], entity_id: UUID) -> bool:
        try:
            return not self._log.load(kind, entity_id).is_deleted
        except NotFound:
            return False


def _missing(each: DecidedRow, gone: set[UUID]) -> Finding | None:
    if each.entity.account_id in gone:
        return each.row.failure(ACCOUNT, "account_gone", "The account was deleted meanwhile.")
    assignee = each.entity.facts.get(ASSIGNEE)
    if assignee and UUID(assignee) in gone:
        return each.row.failure(ASSIGNEE, "member_gone", "The member was deleted meanwhile.")
    return None
