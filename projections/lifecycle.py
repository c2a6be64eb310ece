"""Handlers and tables that all kinds of entity share: a row follows its entity's lifecycle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from domain.shared.text import folded
from eventlog.reading import RecordedEvent
from projections.changes import Counts, Handler, Patch, Put, Remove, Row, RowChange, Table, column

CUSTOM = "customFields"
CUSTOM_PREFIX = CUSTOM + "."
CUSTOM_COLUMN = column(CUSTOM)
FOLDED = "_folded"


def entity_table(name: str, counts: Counts) -> Table:
    """The table of a kind of entity, with custom fields and counts."""
    return Table(name, maps=("custom_fields",), counts=counts)


def lifecycle(
    kind: str,
    table: str,
    *,
    searched: tuple[str, ...] = (),
    status: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Handler]:
    """Handlers for the topics of one kind.

    `searched` names the columns that have a folded one beside them, by which rows are searched;
    `status` is the column that changes of the status set.
    """

    def created(event: RecordedEvent) -> Iterable[RowChange]:
        row = entity_row(event, event.data["fields"], event.occurred_at, searched)
        return (Put(table, event.stream_id, {**(defaults or {}), **row}),)

    def restored(event: RecordedEvent) -> Iterable[RowChange]:
        row = entity_row(event, event.data["fields"], event.data["createdAt"], searched)
        return (Put(table, event.stream_id, {**(defaults or {}), **row}),)

    def updated(event: RecordedEvent) -> Iterable[RowChange]:
        row, custom = changed_columns(event.data["changes"])
        row |= folded_columns(row, searched)
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


def entity_row(
    event: RecordedEvent,
    values: Mapping[str, Any],
    created_at: str,
    searched: tuple[str, ...] = (),
) -> Row:
    """The whole row of an entity with these values."""
    row = {CUSTOM_COLUMN: {}, **{column(name): value for name, value in values.items()}}
    row["created_at"] = created_at
    row["updated_at"] = event.occurred_at
    row["version"] = event.stream_version
    if event.account_id is not None:
        row["account_id"] = event.account_id
    return row | folded_columns(row, searched)


def folded_columns(row: Row, searched: Iterable[str]) -> Row:
    """The columns by which rows are searched: `name_folded` for `name`, for those in the row.

    Search compares text as `folded` writes it: without case, accents and forms of Unicode.
    """
    return {
        f"{name}{FOLDED}": folded(row[name]) if row[name] else row[name]
        for name in searched
        if name in row
    }


def stamps(event: RecordedEvent) -> Row:
    """The columns that every event sets on the row of its entity."""
    return {"version": event.stream_version, "updated_at": event.occurred_at}


def changed_columns(changes: Mapping[str, Any]) -> tuple[Row, dict[str, Any]]:
    """New values by column, and new values of custom fields by key."""
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
    """Handlers that count, on the account's row, its entities of a kind that satisfy `counts`.

    `counts` is called with the values, of which it may use only the status, or the stage, and
    values that never change.
    """

    def add(event: RecordedEvent, amount: int) -> Iterable[RowChange]:
        if event.account_id is None or amount == 0:
            return ()
        return (Patch(table, event.account_id, add={counter: amount}),)

    def added(event: RecordedEvent) -> Iterable[RowChange]:
        return add(event, int(counts(event.data["fields"])))

    def removed(event: RecordedEvent) -> Iterable[RowChange]:
        return add(event, -int(counts(event.data["fields"])))

    def moved(event: RecordedEvent) -> Iterable[RowChange]:
        before = counts({"status": event.data["before"], "stage": event.data["before"]})
        after = counts({"status": event.data["after"], "stage": event.data["after"]})
        return add(event, int(after) - int(before))

    return {
        f"{kind}.created": added,
        f"{kind}.restored": added,
        f"{kind}.deleted": removed,
        f"{kind}.status_changed": moved,
        f"{kind}.stage_changed": moved,
    }
