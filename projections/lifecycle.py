"""Rules and tables that all kinds of entity share: a row follows its entity's lifecycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from domain.shared.text import folded, joinable
from projections.changes import Counts, RowKey, Rows, Step, Table, column

CUSTOM = "customFields"
CUSTOM_PREFIX = CUSTOM + "."
CUSTOM_COLUMN = column(CUSTOM)
FOLDED = "_folded"


def entity_table(name: str, *counts: Counts) -> Table:
    """The table of a kind of entity, with custom fields and counts."""
    return Table(name, maps=(CUSTOM_COLUMN,), counts=counts)


@dataclass(frozen=True)
class Lifecycle:
    """A row for each entity of a kind, from its creation to its deletion.

    Events of the topics `updated` and of those named in `changed` list the changed fields.
    """

    kind: str
    table: str
    searched: tuple[str, ...] = ()
    """Fields, of one word, that have a folded column beside them, by which rows are searched."""
    status: str | None = None
    """The column that changes of the status set."""
    status_since: str | None = None
    """The column with the time of the last change of the status."""
    deleted_flag: str | None = None
    """The column that marks a deleted row, which stays; None if the row is removed."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of columns that no field of the entity sets."""
    created: str = "created"
    changed: tuple[str, ...] = ()
    deleted: str = "deleted"

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the kind that change its row."""
        names = {self.created, "restored", "updated", *self.changed, self.deleted}
        if self.status:
            names.add(f"{self.status}_changed")
        return frozenset(f"{self.kind}.{name}" for name in names)

    def steps(self, tables: Mapping[str, Rows]) -> Mapping[str, Step]:
        """The step for each topic."""
        rows = tables[self.table]
        fields = _Fields(rows, self.searched)
        changed = self._changed(rows, fields)
        names = {
            self.created: self._inserted(rows, fields, is_restored=False),
            "restored": self._inserted(rows, fields, is_restored=True),
            **dict.fromkeys(("updated", *self.changed), changed),
            self.deleted: self._flagged(rows) if self.deleted_flag else _removed(rows),
        }
        if self.status:
            names[f"{self.status}_changed"] = self._status_changed(rows, self.status)
        return {f"{self.kind}.{name}": step for name, step in names.items()}

    def _inserted(self, rows: Rows, fields: _Fields, *, is_restored: bool) -> Step:
        put = rows.put
        version_slot, updated_slot = rows.slot("version"), rows.slot("updated_at")
        created_slot, account_slot = rows.slot("created_at"), rows.slot("account_id")
        since_slot = rows.slot(self.status_since) if self.status_since else None
        fresh = rows.blank()
        for name, value in {CUSTOM_COLUMN: {}, **self.defaults}.items():
            fresh[rows.slot(name)] = value

        def step(
            key: RowKey, account: RowKey | None, version: int, at: str, data: Mapping[str, Any]
        ) -> None:
            row = fresh.copy()
            values = data["fields"]
            for name, value in values.items():
                row[fields[name]] = value
            for name, slot in fields.searched:
                if name in values:
                    row[slot] = _folded(values[name])
            row[created_slot] = data["createdAt"] if is_restored else at
            row[updated_slot] = at
            row[version_slot] = version
            if account is not None:
                row[account_slot] = account[1]
            if since_slot is not None:
                row[since_slot] = data["statusChangedAt"] if is_restored else at
            put(key, row, version)

        return step

    def _changed(self, rows: Rows, fields: _Fields) -> Step:
        find, merge = rows.find, rows.merge
        version_slot, updated_slot = rows.slot("version"), rows.slot("updated_at")
        custom_slot = rows.slot(CUSTOM_COLUMN)
        status = self.status
        since_slot = rows.slot(self.status_since) if self.status_since else None

        def step(
            key: RowKey, _account: RowKey | None, version: int, at: str, data: Mapping[str, Any]
        ) -> None:
            changes = data["changes"]
            custom = {}
            values = []
            for name, change in changes.items():
                if name.startswith(CUSTOM_PREFIX):
                    custom[name[len(CUSTOM_PREFIX) :]] = change["after"]
                else:
                    values.append((fields[name], change["after"]))
            for name, slot in fields.searched:
                if name in changes:
                    values.append((slot, _folded(changes[name]["after"])))
            row = find(key, version)
            if row is None:
                return
            for slot, value in values:
                row[slot] = value
            if custom:
                merge(row, custom_slot, custom)
            if since_slot is not None and status in changes:
                row[since_slot] = at
            row[version_slot] = version
            row[updated_slot] = at

        return step

    def _status_changed(self, rows: Rows, status: str) -> Step:
        find = rows.find
        version_slot, updated_slot = rows.slot("version"), rows.slot("updated_at")
        status_slot = rows.slot(status)
        since_slot = rows.slot(self.status_since) if self.status_since else None

        def step(
            key: RowKey, _account: RowKey | None, version: int, at: str, data: Mapping[str, Any]
        ) -> None:
            after = data["after"]
            row = find(key, version)
            if row is None:
                return
            row[status_slot] = after
            if since_slot is not None:
                row[since_slot] = at
            row[version_slot] = version
            row[updated_slot] = at

        return step

    def _flagged(self, rows: Rows) -> Step:
        find = rows.find
        version_slot, updated_slot = rows.slot("version"), rows.slot("updated_at")
        assert self.deleted_flag is not None
        flag_slot = rows.slot(self.deleted_flag)

        def step(
            key: RowKey, _account: RowKey | None, version: int, at: str, _data: Mapping[str, Any]
        ) -> None:
            row = find(key, version)
            if row is not None:
                row[flag_slot] = True
                row[version_slot] = version
                row[updated_slot] = at

        return step


@dataclass(frozen=True)
class Counted:
    """On the row of each account, the number of its entities of a kind, and their names."""

    kind: str
    counter: str
    unless: tuple[str, frozenset[str]] | None = None
    """A field, the status or the stage, and the values with which an entity is not counted."""
    names: tuple[str, str] | None = None
    """A text field of the entities, and the JSON map, on the account's row, that has it by id,
    folded and in the form of `joinable`."""
    table: str = "accounts"

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the kind that change the account's row."""
        topics = ["created", "restored", "deleted"]
        if self.unless:
            topics.append(f"{self.unless[0]}_changed")
        if self.names:
            topics += ["updated", "merged"]
        return frozenset(f"{self.kind}.{topic}" for topic in topics)

    def steps(self, tables: Mapping[str, Rows]) -> Mapping[str, Step]:
        """The step for each topic."""
        rows = tables[self.table]
        added, removed = self._counted(rows, 1), self._counted(rows, -1)
        steps = {"created": added, "restored": added, "deleted": removed}
        if self.unless:
            steps[f"{self.unless[0]}_changed"] = self._moved(rows, self.unless[1])
        if self.names:
            renamed = _renamed(rows, *self.names)
            steps |= {"updated": renamed, "merged": renamed}
        return {f"{self.kind}.{topic}": step for topic, step in steps.items()}

    def _counted(self, rows: Rows, amount: int) -> Step:
        find, merge, slot = rows.find, rows.merge, rows.slot(self.counter)
        field, excluded = self.unless or ("", frozenset())
        named, names = self.names or ("", "")
        names_slot = rows.slot(names) if names else None

        def step(
            key: RowKey, account: RowKey | None, _version: int, _at: str, data: Mapping[str, Any]
        ) -> None:
            if account is None or (excluded and data["fields"][field] in excluded):
                return
            name = _joinable(data["fields"][named]) if names and amount > 0 else None
            row = find(account, None)
            if row is not None:
                row[slot] = (row[slot] or 0) + amount
                if names:
                    merge(row, names_slot, {key[1]: name})

        return step

    def _moved(self, rows: Rows, excluded: frozenset[str]) -> Step:
        find, slot = rows.find, rows.slot(self.counter)

        def step(
            _key: RowKey, account: RowKey | None, _version: int, _at: str, data: Mapping[str, Any]
        ) -> None:
            amount = (data["before"] in excluded) - (data["after"] in excluded)
            if account is None or amount == 0:
                return
            row = find(account, None)
            if row is not None:
                row[slot] = (row[slot] or 0) + amount

        return step


def _renamed(rows: Rows, field: str, names: str) -> Step:
    find, merge, names_slot = rows.find, rows.merge, rows.slot(names)

    def step(
        key: RowKey, account: RowKey | None, _version: int, _at: str, data: Mapping[str, Any]
    ) -> None:
        change = data["changes"].get(field)
        if account is None or change is None:
            return
        name = _joinable(change["after"])
        row = find(account, None)
        if row is not None:
            merge(row, names_slot, {key[1]: name})

    return step


class _Fields(dict[str, Any]):
    """The slot of each field's column in the rows of a table, by wire name; learnt when asked."""

    def __init__(self, rows: Rows, searched: tuple[str, ...]) -> None:
        super().__init__()
        self._rows = rows
        self.searched = [(name, rows.slot(f"{name}{FOLDED}")) for name in searched]
        """The searched fields, and the slots of their folded columns."""

    def __missing__(self, wire_name: str) -> Any:
        slot = self[wire_name] = self._rows.slot(column(wire_name))
        return slot


def _removed(rows: Rows) -> Step:
    remove = rows.remove

    def step(
        key: RowKey, _account: RowKey | None, version: int, _at: str, _data: Mapping[str, Any]
    ) -> None:
        remove(key, version)

    return step


def _folded(text: str | None) -> str | None:
    """Text as search compares it: without case, accents and forms of Unicode."""
    return folded(text) if text else text


def _joinable(text: str) -> str:
    return joinable(folded(text))
