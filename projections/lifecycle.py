"""What all entity tables have in common: rows come, change and go with the entity's life."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eventlog.reading import RecordedEvent
from projections.changes import Handler, Patch, Put, Remove, Row, RowChange, column

CUSTOM = "customFields"
CUSTOM_PREFIX = CUSTOM + "."
CUSTOM_COLUMN = column(CUSTOM)


def lifecycle(
    kind: str,
    table: str,
    *,
    status: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Handler]:
    """Handlers for the topics of one kind; `status` names the column of its status changes."""

    def created(event: RecordedEvent) -> Iterable[RowChange]:
        row = entity_row(event, event.data["fields"], event.occurred_at)
        return (Put(table, event.stream_id, {**(defaults or {}), **row}),)

    def restored(event: RecordedEvent) -> Iterable[RowChange]:
        row = entity_row(event, event.data["fields"], event.data["createdAt"])
        return (Put(table, event.stream_id, {**(defaults or {}), **row}),)

    def updated(event: RecordedEvent) -> Iterable[RowChange]:
        row, custom = changed_columns(event.data["changes"])
        merge = {CUSTOM_COLUMN: custom} if custom else {}
        return (Patch(table, event.stream_id, {**row, **stamps(event)}, merge=merge),)

    def status_changed(event: RecordedEvent) -> Iterable[RowChange]:
        assert status is not None
        row = {status: event.data["after"], **stamps(event)}
        return (Patch(table, event.stream_id, row),)

    def deleted(event: RecordedEvent) -> Iterable[RowChange]:
        return (Remove(table, event.stream_id),)

    handlers: dict[str, Handler] = {
        f"{kind}.created": created,
        f"{kind}.updated": updated,
        f"{kind}.deleted": deleted,
        f"{kind}.restored": restored,
    }
    if status:
        handlers[f"{kind}.{status}_changed"] = status_changed
    return handlers


def entity_row(event: RecordedEvent, facts: Mapping[str, Any], created_at: str) -> Row:
    """The whole row of an entity that has these fields."""
    row = {CUSTOM_COLUMN: {}, **{column(name): value for name, value in facts.items()}}
    row["created_at"] = created_at
    row["updated_at"] = event.occurred_at
    row["version"] = event.stream_version
    if event.account_id is not None:
        row["account_id"] = event.account_id
    return row


def stamps(event: RecordedEvent) -> Row:
    """What every event leaves on the row of its entity."""
    return {"version": event.stream_version, "updated_at": event.occurred_at}


def changed_columns(changes: Mapping[str, Any]) -> tuple[Row, dict[str, Any]]:
    """New values by column, and those of custom fields by their own key."""
    row: Row = {}
    custom: dict[str, Any] = {}
    for name, change in changes.items():
        if name.startswith(CUSTOM_PREFIX):
            custom[name[len(CUSTOM_PREFIX) :]] = change["after"]
        else:
            row[column(name)] = change["after"]
    return row, custom


def counted(
    kind: str, table: str, counter: str, *, counts: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Handler]:
    """Handlers that keep a counter on the account's row: how many of its `kind` satisfy `counts`.

    `counts` is given the fields; what it looks at must be the status or never change.
    """

    def add(event: RecordedEvent, amount: int) -> Iterable[RowChange]:
        if event.account_id is None or amount == 0:
            return ()
        return (Patch(table, event.account_id, add={counter: amount}),)

    def came(event: RecordedEvent) -> Iterable[RowChange]:
        return add(event, int(counts(event.data["fields"])))

    def went(event: RecordedEvent) -> Iterable[RowChange]:
        return add(event, -int(counts(event.data["fields"])))

    def moved(event: RecordedEvent) -> Iterable[RowChange]:
        before = counts({"status": event.data["before"], "stage": event.data["before"]})
        after = counts({"status": event.data["after"], "stage": event.data["after"]})
        return add(event, int(after) - int(before))

    return {
        f"{kind}.created": came,
        f"{kind}.restored": came,
        f"{kind}.deleted": went,
        f"{kind}.status_changed": moved,
        f"{kind}.stage_changed": moved,
    }
