"""Leads: one row per lead, with the time of its last status change."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Counts, Handler, Patch, Projection, Put, RowChange
from projections.lifecycle import changed_columns, entity_row, entity_table, lifecycle, stamps

TABLE = "leads"
STATUS_CHANGED_AT = "status_changed_at"
SEARCHED = ("name", "company", "email")


def created(event: RecordedEvent) -> Iterable[RowChange]:
    """Insert the row; the lead has had its status since it was created."""
    row = entity_row(event, event.data["fields"], event.occurred_at, SEARCHED)
    return (Put(TABLE, event.stream_id, {**row, STATUS_CHANGED_AT: event.occurred_at}),)


def restored(event: RecordedEvent) -> Iterable[RowChange]:
    """Insert the row again; `status_changed_at` keeps the value from before the deletion."""
    row = entity_row(event, event.data["fields"], event.data["createdAt"], SEARCHED)
    return (Put(TABLE, event.stream_id, {**row, STATUS_CHANGED_AT: event.data["statusChangedAt"]}),)


def status_changed(event: RecordedEvent) -> Iterable[RowChange]:
    """Set the status and the time of the change."""
    row = {"status": event.data["after"], STATUS_CHANGED_AT: event.occurred_at, **stamps(event)}
    return (Patch(TABLE, event.stream_id, row),)


def converted(event: RecordedEvent) -> Iterable[RowChange]:
    """Set the converted entities, and the status `won` unless the lead had it before."""
    row, _ = changed_columns(event.data["changes"])
    status_changed_at = {STATUS_CHANGED_AT: event.occurred_at} if "status" in row else {}
    return (Patch(TABLE, event.stream_id, {**row, **status_changed_at, **stamps(event)}),)


HANDLERS: dict[str, Handler] = {
    **lifecycle("lead", TABLE, searched=SEARCHED, status="status"),
    "lead.created": created,
    "lead.restored": restored,
    "lead.status_changed": status_changed,
    "lead.converted": converted,
}

PROJECTION = Projection(
    name=TABLE,
    tables=(entity_table(TABLE, Counts("lead_counts", by=("status", "source", "assigned_to"))),),
    handlers=HANDLERS,
)
