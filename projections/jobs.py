"""Jobs: one row per job, with its progress and its errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from eventlog.reading import RecordedEvent
from projections.changes import Handler, Patch, Projection, Put, Row, RowChange, Table


def requested(event: RecordedEvent) -> Iterable[RowChange]:
    """Insert the row of a job that waits for a worker."""
    metadata = orjson.loads(event.metadata)
    row = {
        "kind": event.data["work"],
        "status": "waiting",
        "parameters": event.data["parameters"],
        "total": event.data["total"],
        **dict.fromkeys(("processed", "succeeded", "failed", "errors_total"), 0),
        "counts": {},
        "errors": {},
        "command_id": metadata.get("commandId"),
        "requested_by": metadata.get("actor", {}),
        "created_at": event.occurred_at,
    }
    return (Put("jobs", event.stream_id, {**row, **_stamps(event)}),)


def started(event: RecordedEvent) -> Iterable[RowChange]:
    """Set the status and the time at which a worker started the job."""
    return _changed(event, {"status": "running", "started_at": event.occurred_at})


def progressed(event: RecordedEvent) -> Iterable[RowChange]:
    """Set the progress, and add the new errors."""
    names = ("total", "processed", "succeeded", "failed", "counts")
    row = {name: event.data[name] for name in names}
    row["errors_total"] = event.data["errorsTotal"]
    merge = {"errors": event.data["errors"]} if event.data["errors"] else {}
    return _changed(event, row, merge)


def ended(status: str) -> Handler:
    """A handler that sets the final status."""

    def handler(event: RecordedEvent) -> Iterable[RowChange]:
        row = {"status": status, "ended_at": event.occurred_at}
        if status == "failed":
            row["failure"] = event.data["error"]
        return _changed(event, row)

    return handler


def _stamps(event: RecordedEvent) -> Row:
    """The columns that every event sets."""
    return {"version": event.stream_version, "updated_at": event.occurred_at}


def _changed(
    event: RecordedEvent, row: dict[str, Any], merge: dict[str, Any] | None = None
) -> Iterable[RowChange]:
    return (Patch("jobs", event.stream_id, {**row, **_stamps(event)}, merge=merge or {}),)


PROJECTION = Projection(
    name="jobs",
    tables=(Table("jobs", maps=("errors",)),),
    handlers={
        "job.requested": requested,
        "job.started": started,
        "job.progressed": progressed,
        "job.completed": ended("completed"),
        "job.failed": ended("failed"),
        "job.cancelled": ended("cancelled"),
    },
)
