"""Appointments."""

from __future__ import annotations

from readmodels.spec import (
    ACCOUNT,
    ASSIGNEE,
    CREATED,
    NAME_OF_MEMBER,
    OF_ACCOUNT,
    STAMPS,
    UPDATED,
    ListSpec,
    Sort,
    columns,
    count_by,
)

SPEC = ListSpec(
    plural="appointments",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("title", "status", "member_id"),
        "memberName": NAME_OF_MEMBER.format(column="member_id"),
        **columns("starts_at", "ends_at", "lead_id", "contact_id"),
        **columns("location", "notes", "allow_overlap", "confirmed_at", "confirmed_by"),
        **columns("confirmation_notes", "cancel_reason"),
        **STAMPS,
    },
    filters={
        **ACCOUNT,
        "leadId": ("lead_id", "uuid"),
        "memberId": ("member_id", "uuid"),
        "status": ("status", "text"),
        **ASSIGNEE,
    },
    counts_table="appointment_counts",
    counted=frozenset({"status", "memberId", "assignedTo"}),
    sorts={
        "status": Sort((("status", "text"), ("created_at", "timestamptz"))),
        "starts_at": Sort((("starts_at", "timestamptz"),)),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_appointments",
    search_inline="t.title ILIKE %(pattern)s",
    stats={"byStatus": count_by("appointment_counts", "status")},
)
