"""Proposals."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from domain.proposal import Proposal
from tests.support.kinds import Act, KindDescription

STEPS: list[Act] = [
    lambda one, at: one.send("ada@example.com", at=at),
    lambda one, at: one.decline(at=at, reason="Too dear"),
    lambda one, at: one.redraft({"value": "4000.00"}, at=at),
    lambda one, at: one.revert({"status": "sent"}, at=at),
    lambda one, at: one.accept(at=at),
]

DESCRIPTION = KindDescription(
    kind=Proposal,
    example={"title": "Renewal", "status": "draft", "value": "1200.00"},
    changed=("title", "Renewal 2027"),
    full={
        "title": "Renewal",
        "status": "draft",
        "body": "We offer\nas follows.",
        "value": "5000.00",
        "validUntil": "2026-03-31",
        "opportunityId": "00000000-0000-0000-0000-000000000005",
    },
    revised={"body": None, "value": "4500.00"},
    steps=STEPS,
    columns="""title status body value validUntil opportunityId sentAt sentTo answeredAt
               declineReason""",
    searched="title",
    filters="accountId status assignedTo",
    counted=("status", "assigned_to"),
    sorts={"status": "status created_at"},
    any_fields=lambda the: the.fields(
        {"title": the.text}, body=the.text, value=the.money, validUntil=the.days
    ),
    any_values=lambda some, name: {"title": name, "value": some([None, "0.10"])},
    many_rows=(
        "account_id, title, status",
        "{account}, {name}, (ARRAY['draft', 'sent'])[1 + i % 2]",
    ),
    conversions={
        "value": Decimal,
        "validUntil": date.fromisoformat,
        "opportunityId": UUID,
        "sentAt": datetime.fromisoformat,
        "answeredAt": datetime.fromisoformat,
    },
    acts=STEPS,
)
