"""What an import was asked to do, checked against the kind and the columns of the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from commands.importing.cells import DateOrder, Form, form_of
from commands.importing.findings import ImportFault, ImportRefused
from commands.importing.lookup import Lookup
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.fields import CUSTOM
from domain.shared.kinds import BY_PLURAL

NOT_IMPORTED = frozenset({"workspaces", "keys"})
IMPORTABLE: Mapping[str, type[Entity]] = {
    plural: kind for plural, kind in BY_PLURAL.items() if plural not in NOT_IMPORTED
}
"""Kinds that can be imported, by the name of their collection."""

ACCOUNT = "accountId"
ASSIGNEE = "assignedTo"
OCCURRED = "occurredAt"
CUSTOM_PREFIX = f"{CUSTOM}."
CONTACT_FIELDS = {
    f"contact{name[0].upper()}{name[1:]}": name for name in ("name", "email", "phone", "title")
}
"""Fields of a row of accounts that make a contact of the account, and the contact's own names."""
NAME = "name"
NAME_PARTS = ("firstName", "lastName")
"""Fields of a person that make the name together."""
PARTS_OF_CONTACT = ("contactFirstName", "contactLastName")
RESERVED = "annals:"
"""Columns that begin so are ours: they come with failed rows that were mended."""
ROW_COLUMN = f"{RESERVED}row"


class Mode(StrEnum):
    """What becomes of a row whose key is there already: left, changed, or made once more.

    `update` changes the fields that the row has something for, and no others: an empty cell clears
    nothing, a default is for new ones. Rows of the file with the same key are always one thing.
    """

    SKIP = "skip"
    UPDATE = "update"
    CREATE = "create"


@dataclass(frozen=True)
class ImportOptions:
    """Which columns become which fields, and what else is to be done with a row.

    `mapping` is column → field; an empty field leaves the column out. A column that is not in it
    becomes the field of the same name, else the custom field of that name. `defaults` is field →
    text for rows where the field would be empty. `corrections` is column → wrong → right, `known`
    is column → the values that are right. `dedupe_by` are the fields by which rows are told apart.
    """

    kind: type[Entity]
    mapping: Mapping[str, str] = field(default_factory=dict)
    dedupe_by: tuple[str, ...] = ()
    mode: Mode = Mode.SKIP
    defaults: Mapping[str, str] = field(default_factory=dict)
    corrections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    known: Mapping[str, Lookup[str]] = field(default_factory=dict)
    dates: DateOrder | None = None
    rows_max: int | None = None


@dataclass(frozen=True)
class Directory:
    """Accounts by company and members by name, for references by name."""

    accounts: Lookup[UUID]
    members: Lookup[UUID]


@dataclass(frozen=True)
class Column:
    """A column of the file (a default without one has no name) and the field that it becomes."""

    name: str
    field: str
    form: Form = Form.TEXT
    choices: tuple[str, ...] = ()
    default: str = ""
    dates: DateOrder = DateOrder.MDY

    @property
    def has_dates(self) -> bool:
        """Whether it is to be found out how dates are written in it."""
        return self.form in (Form.DATE, Form.INSTANT)


def columns_of(options: ImportOptions, names: Iterable[str]) -> list[Column]:
    """What becomes of each column, and of the defaults. Raises `ImportRefused`."""
    names = tuple(names)
    for given in (options.mapping, options.corrections, options.known):
        for name in given:
            if name not in names:
                raise ImportRefused(f"There is no column {name!r}; there are {', '.join(names)}.")
    names = tuple(name for name in names if not name.startswith(RESERVED))
    wanted = {name: options.mapping.get(name, _field_of(options.kind, name)) for name in names}
    columns = [_column(options, name, target) for name, target in wanted.items() if target] + [
        _column(options, "", target) for target in options.defaults if target not in wanted.values()
    ]
    _require_one_column_each(columns)
    _require_keys(options, columns)
    return columns


def _field_of(kind: type[Entity], column: str) -> str:
    if column in kind.FIELDS.read_only():
        return ""  # what commands did is exported, and cannot be done by a file
    is_field = column in _forms(kind) or column == ACCOUNT
    return column if is_field else CUSTOM_PREFIX + column


def fields_of(kind: type[Entity]) -> dict[str, tuple[Form, tuple[str, ...]]]:
    """What a column can become besides a custom field: its form, and its choices."""
    return _forms(kind)


def _forms(kind: type[Entity]) -> dict[str, tuple[Form, tuple[str, ...]]]:
    forms = {
        str(info.alias): form_of(info)
        for info in kind.FIELDS.model_fields.values()
        if info.alias != CUSTOM and info.alias not in kind.FIELDS.read_only()
    }
    forms[OCCURRED] = (Form.INSTANT, ())
    text: tuple[Form, tuple[str, ...]] = (Form.TEXT, ())
    if kind.BELONGS_TO_ACCOUNT:
        forms[ACCOUNT] = text
    if kind is Account:
        forms |= dict.fromkeys((*CONTACT_FIELDS, *PARTS_OF_CONTACT), text)
    if kind in (Contact, Member):
        forms |= dict.fromkeys(NAME_PARTS, text)
    return forms


def _column(options: ImportOptions, name: str, target: str) -> Column:
    default = options.defaults.get(target, "")
    if target.startswith(CUSTOM_PREFIX) and target != CUSTOM_PREFIX:
        return Column(name, target, default=default)
    forms = _forms(options.kind)
    if target not in forms:
        raise ImportRefused(
            f"{options.kind.PLURAL} have no field {target!r}; there are"
            f" {', '.join(forms)} and {CUSTOM_PREFIX}<name>."
        )
    form, choices = forms[target]
    return Column(name, target, form, choices, default)


def _require_one_column_each(columns: list[Column]) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        if column.field in seen:
            raise ImportRefused(
                f"The columns {seen[column.field]!r} and {column.name!r} would both become"
                f" {column.field}: leave one out (--map {column.name}=)."
            )
        seen[column.field] = column.name


def _require_keys(options: ImportOptions, columns: list[Column]) -> None:
    by_field = {column.field: column for column in columns}
    for key in options.dedupe_by:
        if key == NAME and not by_field.keys().isdisjoint(NAME_PARTS):
            continue
        if key not in by_field:
            raise ImportRefused(f"Rows cannot be told apart by {key!r}: no column becomes it.")
        if key in (*CONTACT_FIELDS, *NAME_PARTS, *PARTS_OF_CONTACT):
            raise ImportRefused(f"Rows cannot be told apart by {key!r}: it is no field of its own.")
        if by_field[key].form is Form.INSTANT:
            raise ImportRefused(f"Rows cannot be told apart by {key!r}, which is a time.")


def kind_of(plural: str) -> type[Entity]:
    """The kind that is imported under this name. Raises `ImportRefused`."""
    kind = IMPORTABLE.get(plural)
    if kind is None:
        message = f"{plural} cannot be imported; {', '.join(IMPORTABLE)} can."
        raise ImportRefused(message, ImportFault.KIND)
    return kind
