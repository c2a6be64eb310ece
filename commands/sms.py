"""Commands on text messages: request one, and record its status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Any
from uuid import UUID

from commands.decisions import CommandOutcome
from commands.entities import EntityCommands
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

# Count a message to a lead, or of the workspace (lead null), which also deletes the counters of
# earlier days. Every transaction counts the lead before the workspace, so that two of them cannot
# deadlock.
COUNT_SMS = "SELECT count_sms(%(workspace)s, %(day)s, %(lead)s)"


@dataclass(frozen=True)
class SmsLimits:
    """Limits on messages, and defaults for phone numbers and times."""

    lead_daily_max: int = 10
    """Maximum number of messages to one lead per UTC day."""
    workspace_daily_max: int = 2_000
    """Maximum number of messages of one workspace per UTC day."""
    region: str | None = None
    """ISO 3166 country code for phone numbers without `+`; None rejects these."""
    zone: tzinfo = UTC
    """The time zone of times in messages."""


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
        """Request a message to a lead. A sender process that follows the log sends it.

        The text is `message`, or that of the template if there are variables or no message. The
        variables `name` and `message` default to the lead's name and to `message`. Raises
        `NotFound`, `IsDeleted`, `LeadOptedOut`, `LeadHasNoPhone`, `PhoneUnusable`,
        `VariableMissing`, `VariableUnknown`, `InvalidFields`, `LeadDailyLimitReached`,
        `WorkspaceDailyLimitReached`.
        """
        with self._log.transaction(scope) as connection:
            lead = self._log.load(Lead, lead_id)
            phone = require_reachable(lead)
            given = {
                "leadId": str(lead_id),
                "phone": to_e164(phone, self._limits.region),
                "message": _compose_text(lead, message, template_id, variables),
                "templateId": template_id,
            }
            fields = {name: value for name, value in given.items() if value is not None}
            # Before the append: waiting for a counter must not hold back followers of the log.
            self._count(connection, scope.workspace_id, lead_id, self._clock().date())
            return self._entities.create(scope, Sms, fields, entity_id=sms_id)

    def record_status(
        self, scope: Scope, sms_id: UUID, status: SmsStatus, **details: Any
    ) -> CommandOutcome:
        """Record a status of the message; `details` are arguments of `Sms.record_status`.

        Raises `NotFound`, `IsDeleted`.
        """

        def decide(sms: Sms, now: datetime) -> None:
            sms.record_status(status, at=now, **details)

        return self._entities.act(scope, Sms, sms_id, decide)

    def request_confirmation(
        self, scope: Scope, appointment_id: UUID, *, sms_id: UUID
    ) -> CommandOutcome:
        """Request a message to the lead of an appointment that the appointment is confirmed.

        Raises `NoRecipient` if the appointment has no lead or is no longer confirmed, and what
        `request` raises.
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
        """Set the status of the message's lead to contacted, if the lead is new.

        Raises `NotFound`, `IsDeleted`.
        """
        with self._log.scoped(scope):
            lead_id = self._log.load(Sms, sms_id).lead_id
        return self._entities.revise(scope, Lead, lead_id, _with_contacted_status)

    def _count(self, connection: Connection, workspace_id: UUID, lead_id: UUID, day: date) -> None:
        """Count a message of this day. Raises `LeadDailyLimitReached`,
        `WorkspaceDailyLimitReached`; the caller then rolls the counters back."""
        of_day = {"workspace": workspace_id, "day": day}
        if _increment(connection, {**of_day, "lead": lead_id}) > self._limits.lead_daily_max:
            raise LeadDailyLimitReached(lead_id, self._limits.lead_daily_max)
        of_workspace = _increment(connection, {**of_day, "lead": None})
        if of_workspace > self._limits.workspace_daily_max:
            raise WorkspaceDailyLimitReached(self._limits.workspace_daily_max)


def require_reachable(lead: Lead) -> str:
    """Return the lead's phone number. Raises `IsDeleted`, `LeadOptedOut`, `LeadHasNoPhone`."""
    if lead.is_deleted:
        raise IsDeleted(Lead.KIND, lead.id)
    if lead.sms_opt_out:
        raise LeadOptedOut(lead.id)
    if not lead.phone:
        raise LeadHasNoPhone(lead.id)
    return lead.phone


def day_and_time(starts_at: datetime) -> dict[str, str]:
    """The variables of the confirmation template: `31 January 2026`, `14:30 CET`."""
    return {
        "date": f"{starts_at.day} {starts_at:%B %Y}",
        "time": f"{starts_at:%H:%M} {starts_at.tzname()}",
    }


def _increment(connection: Connection, parameters: Mapping[str, Any]) -> int:
    (count,) = connection.execute(COUNT_SMS, parameters).fetchone() or (0,)
    return int(count)


def _with_contacted_status(values: FieldValues) -> FieldValues:
    is_new = values["status"] == LeadStatus.NEW
    return {**values, "status": LeadStatus.CONTACTED} if is_new else values


def _compose_text(
    lead: Lead,
    message: str | None,
    template_id: TemplateId | None,
    variables: Mapping[str, str] | None,
) -> str | None:
    """The text of the message; None without text and template, which `SmsFields` rejects."""
    if template_id is None or (message is not None and variables is None):
        return message
    defaults = {"name": lead.name, "message": message}
    wanted = variables_of(template_id)
    filled = {name: text for name, text in defaults.items() if text and name in wanted}
    return render(template_id, {**filled, **(variables or {})})
