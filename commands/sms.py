"""Commands on text messages: ask for one, and take note of what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Any
from uuid import UUID

from commands.entities import CommandOutcome, EntityCommands, retry_on_conflict
from domain.appointment import Appointment, AppointmentStatus
from domain.lead import Lead, LeadStatus
from domain.shared.fields import FieldValues
from domain.shared.phone import to_e164
from domain.shared.refusals import IsDeleted
from domain.sms import (
    LeadDailyLimitReached,
    LeadHasNoPhone,
    LeadOptedOut,
    NoRecipient,
    Sms,
    SmsStatus,
    TemplateId,
    WorkspaceDailyLimitReached,
    render,
    variables_of,
)
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog

# The lead's row first and the workspace's second, whoever counts: nobody waits in a circle.
COUNT = """
INSERT INTO sms_counts AS c (workspace_id, day, lead_id, n)
VALUES (%(workspace)s, %(day)s, %(lead)s, 1)
ON CONFLICT (workspace_id, day, lead_id) DO UPDATE SET n = c.n + 1
RETURNING n
"""
FORGET_COUNTS = "DELETE FROM sms_counts WHERE workspace_id = %(workspace)s AND day < %(day)s"


@dataclass(frozen=True)
class SmsLimits:
    """What may be sent, and how numbers are read."""

    lead_daily_max: int = 10
    """Messages to one lead, a day in UTC."""
    workspace_daily_max: int = 2_000
    """Messages of one workspace, a day in UTC."""
    region: str | None = None
    """ISO 3166 code of the country in which numbers without `+` are dialled; none by default."""
    zone: tzinfo = UTC
    """In which times are told."""


class SmsCommands:
    """Handles commands on text messages. Thread-safe; the clock is passed in."""

    def __init__(
        self,
        log: EventLog,
        entities: EntityCommands,
        *,
        clock: Callable[[], datetime],
        limits: SmsLimits = SmsLimits(),
    ) -> None:
        self._log = log
        self._entities = entities
        self._clock = clock
        self._limits = limits

    def request(
        self,
        scope: Scope,
        lead_id: UUID,
        *,
        message: str | None = None,
        template_id: TemplateId | None = None,
        variables: Mapping[str, str] | None = None,
        sms_id: UUID | None = None,
    ) -> CommandOutcome:
        """Ask for a message to a lead; it is sent by a process that follows the log.

        The text is `message`; with variables, or where there is no message, it is the template's.
        `name` is the lead's where it is not given, `message` the message. Raises `NotFound`,
        `IsDeleted`, `LeadOptedOut`, `LeadHasNoPhone`, `PhoneUnusable`, `VariableMissing`,
        `VariableUnknown`, `InvalidFields`, `LeadDailyLimitReached`, `WorkspaceDailyLimitReached`.
        """
        with self._log.transaction(scope) as connection:
            lead = self._log.load(Lead, lead_id)
            phone = require_reachable(lead)
            given = {
                "leadId": str(lead_id),
                "phone": to_e164(phone, self._limits.region),
                "message": _text(lead, message, template_id, variables),
                "templateId": template_id,
            }
            fields = {name: value for name, value in given.items() if value is not None}
            # Before the event: whoever waits to be counted holds no follower back.
            self._count(connection, scope.workspace_id, lead_id, self._clock().date())
            return self._entities.create(scope, Sms, fields, entity_id=sms_id)

    def record_status(
        self, scope: Scope, sms_id: UUID, status: SmsStatus, **facts: Any
    ) -> CommandOutcome:
        """Take note of what is heard of a message; `facts` as `Sms.record_status` has them.

        Raises `NotFound`, `IsDeleted`.
        """

        def decide() -> CommandOutcome:
            with self._log.transaction(scope):
                sms = self._log.load(Sms, sms_id)
                sms.record_status(status, at=max(self._clock(), sms.modified_on), **facts)
                return CommandOutcome(sms, self._log.append(sms) or self._log.taken_position())

        return retry_on_conflict(decide)

    def request_confirmation(
        self, scope: Scope, appointment_id: UUID, *, sms_id: UUID
    ) -> CommandOutcome:
        """Ask for a message that tells the lead of an appointment that it is confirmed.

        Raises `NoRecipient` where it has no lead or is not confirmed any more, and as `request`.
        """
        with self._log.transaction(scope):
            appointment = self._log.load(Appointment, appointment_id)
            lead_id = appointment.lead_id
            is_confirmed = appointment.status == AppointmentStatus.CONFIRMED
            if lead_id is None or appointment.is_deleted or not is_confirmed:
                raise NoRecipient(appointment_id)
            return self.request(
                scope,
                lead_id,
                template_id=TemplateId.APPOINTMENT_CONFIRMATION,
                variables=day_and_time(appointment.starts_at.astimezone(self._limits.zone)),
                sms_id=sms_id,
            )

    def mark_lead_contacted(self, scope: Scope, sms_id: UUID) -> CommandOutcome:
        """The lead who got this message is contacted by that; one that is not new stays as it is.

        Raises `NotFound`, `IsDeleted`.
        """
        with self._log.scoped(scope):
            lead_id = self._log.load(Sms, sms_id).lead_id
        return self._entities.revise(scope, Lead, lead_id, _contacted)

    def _count(self, connection: Connection, workspace_id: UUID, lead_id: UUID, day: date) -> None:
        """Count one more message of today.

        Raises `LeadDailyLimitReached` and `WorkspaceDailyLimitReached`, and counts nothing then.
        """
        asked = {"workspace": workspace_id, "day": day}
        (of_lead,) = connection.execute(COUNT, {**asked, "lead": lead_id}).fetchone() or (0,)
        if of_lead > self._limits.lead_daily_max:
            raise LeadDailyLimitReached(lead_id, self._limits.lead_daily_max)
        (of_all,) = connection.execute(COUNT, {**asked, "lead": None}).fetchone() or (0,)
        if of_all > self._limits.workspace_daily_max:
            raise WorkspaceDailyLimitReached(self._limits.workspace_daily_max)
        if of_all == 1:
            connection.execute(FORGET_COUNTS, asked)


def require_reachable(lead: Lead) -> str:
    """The phone number of the lead. Raises `IsDeleted`, `LeadOptedOut`, `LeadHasNoPhone`."""
    if lead.is_deleted:
        raise IsDeleted(Lead.KIND, lead.id)
    if lead.sms_opt_out:
        raise LeadOptedOut(lead.id)
    if not lead.phone:
        raise LeadHasNoPhone(lead.id)
    return lead.phone


def day_and_time(starts_at: datetime) -> dict[str, str]:
    """As the template of a confirmation says it: `31 January 2026`, `14:30 CET`."""
    return {
        "date": f"{starts_at.day} {starts_at:%B %Y}",
        "time": f"{starts_at:%H:%M} {starts_at.tzname()}",
    }


def _contacted(facts: FieldValues) -> FieldValues:
    is_new = facts["status"] == LeadStatus.NEW
    return {**facts, "status": LeadStatus.CONTACTED} if is_new else facts


def _text(
    lead: Lead,
    message: str | None,
    template_id: TemplateId | None,
    variables: Mapping[str, str] | None,
) -> str | None:
    """What the message says; None where nothing was given, which the fields refuse."""
    if template_id is None or (message is not None and variables is None):
        return message
    known = {"name": lead.name, "message": message}
    wanted = variables_of(template_id)
    filled = {name: text for name, text in known.items() if text and name in wanted}
    return render(template_id, {**filled, **(variables or {})})
