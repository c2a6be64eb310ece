"""Bulk changes as jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commands.bulk import BulkAction, BulkChange, BulkCommands, BulkWork
from commands.jobs.work import JobContext
from domain.shared.entity import Entity
from domain.shared.kinds import KINDS
from domain.shared.refusals import FieldError, InvalidFields
from runtime.patches import MERGE_PATCH_TYPE, change_of

KIND = "bulk"


def open_work(context: JobContext) -> BulkWork:
    """Create the work of a job with parameters `{kind, change}`, as POST /api/bulk sets them."""
    kind = KINDS[context.parameters["kind"]]
    change = bulk_change(kind, context.parameters["change"])
    return BulkWork(context, BulkCommands(context.log, clock=context.clock), kind, change)


def bulk_change(kind: type[Entity], given: Mapping[str, Any]) -> BulkChange:
    """Parse `{set: …}`, `{delete: true}` or `{restore: true}`. Raises `InvalidFields`."""
    ((name, value),) = given.items()
    action = BulkAction(name)
    if action is not BulkAction.SET:
        return BulkChange(action)
    known_fields = set(kind.FIELDS.wire_names())
    unknown = [
        FieldError(f"change.set.{field}", "extra_forbidden", "There is no such field")
        for field in value
        if field not in known_fields
    ]
    if unknown:
        raise InvalidFields(unknown)
    return BulkChange(action, change_of(kind.FIELDS, MERGE_PATCH_TYPE, value))
