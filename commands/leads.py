"""Commands on leads: move one or many to a status, and convert one into what it became."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.entities import EntityCommands, retry_on_conflict
from commands.links import require_links
from domain.account import Account, AccountStatus, AccountType
from domain.contact import Contact
from domain.lead import Lead
from domain.opportunity import Opportunity
from domain.shared.fields import CUSTOM, FieldValues
from domain.shared.refusals import InvalidFields, Refusal, StaleVersion
from eventlog.scope import Scope
from eventlog.store.log import EventLog

LEADS_AT_ONCE_MAX = 500
"""Most leads whose status is updated by one request."""


@dataclass
class StatusUpdates:
    """What came of moving many leads: those that moved, and why the others did not."""

    updated: list[Lead] = field(default_factory=list)
    refused: dict[UUID, Refusal] = field(default_factory=dict)
    position: int = 0


class StatusUpdatesRefused(Exception):
    """All or nothing was asked for, and some of them could not be moved. Nothing was recorded."""

    def __init__(self, moves: StatusUpdates) -> None:
        super().__init__()
        self.moves = moves


@dataclass(frozen=True)
class ConversionOverrides:
    """What a conversion should make otherwise than it would by itself.

    Fields of the account, the contact and the opportunity by wire name, None for none at all;
    `account_id` names an account that is there already.
    """

    account: Mapping[str, Any] = field(default_factory=dict)
    contact: Mapping[str, Any] = field(default_factory=dict)
    opportunity: Mapping[str, Any] = field(default_factory=dict)
    account_id: UUID | None = None


@dataclass(frozen=True)
class ConversionOutcome:
    """A lead, what it became, and the log position by which all of it is recorded."""

    lead: Lead
    account: Account
    contact: Contact
    opportunity: Opportunity
    position: int


class LeadCommands:
    """Handles what only leads do. Thread-safe; clock and ids are passed in."""

    def __init__(
        self,
        log: EventLog,
        entities: EntityCommands,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._log = log
        self._entities = entities
        self._clock = clock
        self._new_id = new_id

    def update_statuses(
        self, scope: Scope, lead_ids: Sequence[UUID], status: str, *, atomic: bool = False
    ) -> StatusUpdates:
        """Move these leads to the status, each for itself; all or none where it is `atomic`.

        A lead that is named twice is moved once. Raises `StatusUpdatesRefused`.
        """

        def decide() -> StatusUpdates:
            moves = StatusUpdates()
            with self._log.transaction(scope):
                for lead_id in dict.fromkeys(lead_ids):
                    try:
                        lead = self._log.load(Lead, lead_id)
                        lead.update_status(status, at=self._time(lead))
                    except Refusal as refusal:
                        moves.refused[lead_id] = refusal
                    else:
                        moves.updated.append(lead)
                if atomic and moves.refused:
                    raise StatusUpdatesRefused(moves)
                moves.position = self._log.append(*moves.updated) or self._log.taken_position()
            return moves

        return retry_on_conflict(decide)

    def convert(
        self,
        scope: Scope,
        lead_id: UUID,
        wishes: ConversionOverrides,
        *,
        expected_version: int | None = None,
    ) -> ConversionOutcome:
        """Make an account, a contact and an opportunity of the lead, which is won by that.

        Raises `NotFound`, `IsDeleted`, `AlreadyConverted`, `TransitionRefused`, `InvalidFields`,
        `AccountUnavailable`, `NotAMember`, `StaleVersion`.
        """

        def decide() -> ConversionOutcome:
            with self._log.transaction(scope):
                lead = self._log.load(Lead, lead_id)
                if expected_version is not None and lead.version != expected_version:
                    raise StaleVersion(lead_id, expected_version, lead.version)
                return self._convert(scope, lead, wishes)

        return retry_on_conflict(decide)

    def _convert(self, scope: Scope, lead: Lead, wishes: ConversionOverrides) -> ConversionOutcome:
        at = self._time(lead)
        account_id = wishes.account_id or self._new_id()
        contact_id, opportunity_id = self._new_id(), self._new_id()
        facts = lead.values
        lead.convert(
            account_id=account_id, contact_id=contact_id, opportunity_id=opportunity_id, at=at
        )
        workspace = scope.workspace_id
        if wishes.account_id is None:
            with _faults_of("account"):
                fields = account_fields(facts, wishes.account)
                account = Account.create(account_id, workspace, fields, at=at)
            require_links(self._log, Account, None, account.values)
        else:
            self._entities.require_account(account_id)
            account = self._log.load(Account, account_id)
        with _faults_of("contact"):
            fields = contact_fields(facts, wishes.contact)
            contact = Contact.create(contact_id, workspace, fields, at=at, account_id=account_id)
        with _faults_of("opportunity"):
            fields = opportunity_fields(facts, wishes.opportunity)
            opportunity = Opportunity.create(
                opportunity_id, workspace, fields, at=at, account_id=account_id
            )
        require_links(self._log, Contact, None, contact.values)
        require_links(self._log, Opportunity, None, opportunity.values)
        position = self._log.append(account, contact, opportunity, lead)
        assert position is not None, "a conversion records something"
        return ConversionOutcome(lead, account, contact, opportunity, position)

    def _time(self, lead: Lead) -> datetime:
        return max(self._clock(), lead.modified_on)


def account_fields(lead: FieldValues, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The account that becomes of a lead: a customer, unless it is wished otherwise."""
    made = {
        "company": lead.get("company", lead["name"]),
        "type": AccountType.CUSTOMER.value,
        "status": AccountStatus.ACTIVE.value,
        **_same(lead, "nextAction", "nextActionDate", "assignedTo", CUSTOM),
    }
    if wishes.get("type", made["type"]) == AccountType.CUSTOMER:
        made |= {"dealValue": lead["value"]} if "value" in lead else {}
    return _with(made, wishes)


def contact_fields(lead: FieldValues, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The contact that becomes of a lead."""
    return _with(_same(lead, "name", "email", "phone", "assignedTo"), wishes)


def opportunity_fields(lead: FieldValues, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The opportunity that becomes of a lead."""
    name = {"name": lead.get("company", lead["name"])}
    return _with({**name, **_same(lead, "value", "assignedTo")}, wishes)


@contextmanager
def _faults_of(what: str) -> Iterator[None]:
    """Faults are told of `account.company` and the like."""
    try:
        yield
    except InvalidFields as invalid:
        faults = [replace(each, field=f"{what}.{each.field}") for each in invalid.errors]
        raise InvalidFields(faults) from None


def _same(lead: FieldValues, *names: str) -> dict[str, Any]:
    return {name: lead[name] for name in names if name in lead}


def _with(made: dict[str, Any], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """A wish that is null takes the field away."""
    return {name: value for name, value in {**made, **wishes}.items() if value is not None}
