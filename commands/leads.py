"""Commands on leads: change the status of many, and convert one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.decisions import retry_on_conflict
from commands.links import require_account, require_links
from commands.loaded import LoadedEntities, event_time
from domain.account import Account, AccountStatus, AccountType
from domain.contact import Contact
from domain.lead import Lead
from domain.opportunity import Opportunity
from domain.shared.fields import CUSTOM
from domain.shared.refusals import InvalidFields, Refusal
from eventlog.scope import Scope
from eventlog.store.log import EventLog

LEADS_AT_ONCE_MAX = 500
"""Maximum number of leads whose status one request changes."""


@dataclass
class StatusUpdates:
    """The leads whose status changed, and why others were refused."""

    updated: list[Lead] = field(default_factory=list)
    refused: dict[UUID, Refusal] = field(default_factory=dict)
    position: int = 0


class StatusUpdatesRefused(Exception):
    """Some leads of an atomic update were refused, so nothing was recorded."""

    def __init__(self, updates: StatusUpdates) -> None:
        super().__init__()
        self.updates = updates


@dataclass(frozen=True)
class ConversionOverrides:
    """Values that replace the defaults of a conversion.

    Fields of the account, the contact and the opportunity by wire name; None leaves a field unset.
    `account_id` names an existing account to use.
    """

    account: Mapping[str, Any] = field(default_factory=dict)
    contact: Mapping[str, Any] = field(default_factory=dict)
    opportunity: Mapping[str, Any] = field(default_factory=dict)
    account_id: UUID | None = None


@dataclass(frozen=True)
class ConversionOutcome:
    """The lead, what it was converted to, and a log position that includes all of them."""

    lead: Lead
    account: Account
    contact: Contact
    opportunity: Opportunity
    position: int


class LeadCommands:
    """Handles commands that only leads have. Thread-safe; clock and ids are passed in."""

    def __init__(
        self, log: EventLog, *, clock: Callable[[], datetime], new_id: Callable[[], UUID]
    ) -> None:
        self._log = log
        self._clock = clock
        self._new_id = new_id

    def update_statuses(
        self, scope: Scope, lead_ids: Sequence[UUID], status: str, *, atomic: bool = False
    ) -> StatusUpdates:
        """Change the status of these leads, each of them once; all or none with `atomic`.

        Raises `StatusUpdatesRefused`.
        """

        def decide() -> StatusUpdates:
            updates = StatusUpdates()
            with self._log.transaction(scope):
                loaded = LoadedEntities(self._log)
                loaded.load(lead_ids)
                for lead_id in dict.fromkeys(lead_ids):
                    try:
                        lead = loaded.get(Lead, lead_id)
                        lead.update_status(status, at=event_time(lead, self._clock()))
                    except Refusal as refusal:
                        updates.refused[lead_id] = refusal
                    else:
                        loaded.stage(lead)
                        updates.updated.append(lead)
                if atomic and updates.refused:
                    raise StatusUpdatesRefused(updates)
                updates.position = loaded.append()
            return updates

        return retry_on_conflict(decide)

    def convert(
        self,
        scope: Scope,
        lead_id: UUID,
        overrides: ConversionOverrides,
        *,
        expected_version: int | None = None,
    ) -> ConversionOutcome:
        """Mark the lead as won; create an account (unless one is named), a contact, an opportunity.

        Raises `NotFound`, `IsDeleted`, `AlreadyConverted`, `TransitionRefused`, `InvalidFields`,
        `AccountUnavailable`, `NotAMember`, `StaleVersion`.
        """

        def decide() -> ConversionOutcome:
            with self._log.transaction(scope):
                loaded = LoadedEntities(self._log)
                lead = loaded.get(Lead, lead_id, expected_version)
                return self._convert(loaded, lead, overrides)

        return retry_on_conflict(decide)

    def _convert(
        self, loaded: LoadedEntities, lead: Lead, overrides: ConversionOverrides
    ) -> ConversionOutcome:
        at = event_time(lead, self._clock())
        workspace = lead.workspace_id
        account_id = overrides.account_id or self._new_id()
        contact_id, opportunity_id = self._new_id(), self._new_id()
        lead.convert(
            account_id=account_id, contact_id=contact_id, opportunity_id=opportunity_id, at=at
        )
        if overrides.account_id is None:
            with _errors_prefixed("account"):
                fields = account_fields(lead, overrides.account)
                account = Account.create(account_id, workspace, fields, at=at)
            require_links(loaded, Account, None, account.values)
        else:
            loaded.lock_accounts(shared=[account_id])
            require_account(loaded, account_id)
            account = loaded.get(Account, account_id)
        with _errors_prefixed("contact"):
            fields = contact_fields(lead, overrides.contact)
            contact = Contact.create(contact_id, workspace, fields, at=at, account_id=account_id)
        with _errors_prefixed("opportunity"):
            fields = opportunity_fields(lead, overrides.opportunity)
            opportunity = Opportunity.create(
                opportunity_id, workspace, fields, at=at, account_id=account_id
            )
        require_links(loaded, Contact, None, contact.values)
        require_links(loaded, Opportunity, None, opportunity.values)
        loaded.stage(account, contact, opportunity, lead)
        return ConversionOutcome(lead, account, contact, opportunity, loaded.append())


def account_fields(lead: Lead, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the account created from a lead: a customer by default."""
    fields: dict[str, Any] = {
        "company": lead.company or lead.name,
        "type": AccountType.CUSTOMER.value,
        "status": AccountStatus.ACTIVE.value,
        "nextAction": lead.next_action,
        "nextActionDate": lead.next_action_date,
        "assignedTo": lead.assigned_to,
        CUSTOM: lead.custom_fields,
    }
    if overrides.get("type", fields["type"]) == AccountType.CUSTOMER:
        fields["dealValue"] = lead.value
    return _override(fields, overrides)


def contact_fields(lead: Lead, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the contact created from a lead."""
    fields = {
        "name": lead.name,
        "email": lead.email,
        "phone": lead.phone,
        "assignedTo": lead.assigned_to,
    }
    return _override(fields, overrides)


def opportunity_fields(lead: Lead, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the opportunity created from a lead."""
    fields = {
        "name": lead.company or lead.name,
        "value": lead.value,
        "assignedTo": lead.assigned_to,
    }
    return _override(fields, overrides)


@contextmanager
def _errors_prefixed(prefix: str) -> Iterator[None]:
    """Report field errors by paths such as `account.company`."""
    try:
        yield
    except InvalidFields as invalid:
        errors = [replace(each, field=f"{prefix}.{each.field}") for each in invalid.errors]
        raise InvalidFields(errors) from None


def _override(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**fields, **overrides}
    return {name: value for name, value in merged.items() if value is not None}
