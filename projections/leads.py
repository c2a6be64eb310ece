"""Leads: one row a lead, which tells since when it has its status."""

from __future__ import annotations

from collections.abc import Iterable

from eventlog.reading import RecordedEvent
from projections.changes import Counts, Handler, Patch, Projection, Put, RowChange, Table
from projections.lifecycle import changed_columns, entity_row, lifecycle, stamps

TABLE = "leads"
SINCE = "status_changed_at"


def created(event: RecordedEvent) -> Iterable[RowChange]:
    """It came, with the status that it has since."""
    row = entity_row(event, event.data["fields"], event.occurred_at)
    return (Put(TABLE, event.stream_id, {**row, SINCE: event.occurred_at}),)


def restored(event: RecordedEvent) -> Iterable[RowChange]:
    """It is there again; its status is as old as it was."""
    row = entity_row(event, event.data["fields"], event.data["createdAt"])
    return (Put(TABLE, event.stream_id, {**row, SINCE: event.data["statusChangedAt"]}),)


def status_changed(event: RecordedEvent) -> Iterable[RowChange]:
    """The status moved, now."""
    row = {"status": event.data["after"], SINCE: event.occurred_at, **stamps(event)}
    return (Patch(TABLE, event.stream_id, row),)


def converted(event: RecordedEvent) -> Iterable[RowChange]:
    """It became something else; it is won by that, unless it was before."""
    row, _ = changed_columns(event.data["changes"])
    since = {SINCE: event.occurred_at} if "status" in row else {}
    return (Patch(TABLE, event.stream_id, {**row, **since, **stamps(event)}),)


HANDLERS: dict[str, Handler] = {
    **lifecycle("lead", TABLE, status="status"),
    "lead.created": created,
    "lead.restored": restored,
    "lead.status_changed": status_changed,
    "lead.converted": converted,
}

PROJECTION = Projection(
    name=TABLE,
    tables=(
        Table(
            TABLE,
            maps=("custom_fields",),
            counts=Counts("lead_counts", by=("status", "source", "assigned_to")),
        ),
    ),
    handlers=HANDLERS,
)
