"""Which field each column becomes: the options of an import, checked against kind and columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from commands.importing.cells import DateOrder, DateOrderDetector, Form, Lookup, form_of
from commands.importing.files import SourceTable
from commands.importing.issues import ImportFault, ImportIssue, ImportRefused, warning
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
OCCURRED = "occurredAt"
CUSTOM_PREFIX = f"{CUSTOM}."
CONTACT_FIELDS = {
    f"contact{name[0].upper()}{name[1:]}": name for name in ("name", "email", "phone", "title")
}
"""Fields of an account's row that make a contact of the account, and the contact's own names."""
NAME = "name"
NAME_PARTS = ("firstName", "lastName")
"""Fields of a person that are joined to the name."""
CONTACT_NAME_PARTS = ("contactFirstName", "contactLastName")
RESERVED_PREFIX = "annals:"
"""Prefix of the columns that are added to failed rows."""
ROW_COLUMN = f"{RESERVED_PREFIX}row"
HEADER_ROW = 1

FieldForms = Mapping[str, tuple[Form, tuple[str, ...]]]
"""Form and choices by field."""


class Mode(StrEnum):
    """What happens to a row whose key exists: it is skipped, updates the record, or creates one.

    `update` sets the fields for which the row has a value: an empty cell clears nothing, and a
    default is for new records only. Rows of one file with the same key are always one record.
    """

    SKIP = "skip"
    UPDATE = "update"
    CREATE = "create"


@dataclass(frozen=True)
class ImportOptions:
    """How the columns of a file become fields, and how its rows are matched with records.

    `mapping` is column → field; an empty field leaves the column out. A column that it does not
    name becomes the field of the same name, else the custom field of that name. `defaults` is field
    → text for empty cells, `corrections` column → wrong → right, `known` column → valid values.
    `dedupe_by` are the fields whose values together are the key of a row.
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
class Column:
    """A column of the file and the field that it becomes. A default without column has no name."""

    name: str
    field: str
    form: Form = Form.TEXT
    choices: tuple[str, ...] = ()
    default: str = ""
    dates: DateOrder = DateOrder.MDY

    @property
    def has_dates(self) -> bool:
        """Whether its cells hold dates or times."""
        return self.form in (Form.DATE, Form.INSTANT)


@dataclass(frozen=True)
class DateOrders:
    """How the dates in each column of a file are written, and the columns that leave a doubt."""

    by_column: Mapping[str, DateOrder] = field(default_factory=dict)
    issues: Sequence[ImportIssue] = ()


def kind_of(plural: str) -> type[Entity]:
    """The kind that is imported under this name. Raises `ImportRefused`."""
    kind = IMPORTABLE.get(plural)
    if kind is None:
        message = f"{plural} cannot be imported; {', '.join(IMPORTABLE)} can."
        raise ImportRefused(message, ImportFault.KIND)
    return kind


@cache
def fields_of(kind: type[Entity]) -> FieldForms:
    """The fields that a column can become, custom fields aside."""
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
        forms |= dict.fromkeys((*CONTACT_FIELDS, *CONTACT_NAME_PARTS), text)
    if kind in (Contact, Member):
        forms |= dict.fromkeys(NAME_PARTS, text)
    return MappingProxyType(forms)


def columns_of(
    options: ImportOptions, names: Iterable[str], orders: Mapping[str, DateOrder] | None = None
) -> list[Column]:
    """The columns of these names that become fields, and the defaults. Raises `ImportRefused`."""
    names, orders = tuple(names), orders or {}
    for given in (options.mapping, options.corrections, options.known):
        for name in given:
            if name not in names:
                raise ImportRefused(f"There is no column {name!r}; there are {', '.join(names)}.")
    fields = {
        name: options.mapping.get(name, _field_of(options.kind, name))
        for name in names
        if not name.startswith(RESERVED_PREFIX)
    }
    columns = [_column(options, name, target, orders) for name, target in fields.items() if target]
    columns += [
        _column(options, "", target, orders)
        for target in options.defaults
        if target not in fields.values()
    ]
    _require_one_column_each(columns)
    _require_keys(options, columns)
    return columns


def _field_of(kind: type[Entity], column: str) -> str:
    if column in kind.FIELDS.read_only():
        return ""  # exports have fields that only commands set; a file cannot set them
    return column if column in fields_of(kind) or column == ACCOUNT else CUSTOM_PREFIX + column


def _column(
    options: ImportOptions, name: str, target: str, orders: Mapping[str, DateOrder]
) -> Column:
    form = Form.TEXT
    choices: tuple[str, ...] = ()
    if not target.startswith(CUSTOM_PREFIX) or target == CUSTOM_PREFIX:
        fields = fields_of(options.kind)
        if target not in fields:
            raise ImportRefused(
                f"{options.kind.PLURAL} have no field {target!r}; there are"
                f" {', '.join(fields)} and {CUSTOM_PREFIX}<name>."
            )
        form, choices = fields[target]
    default = options.defaults.get(target, "")
    return Column(name, target, form, choices, default, orders.get(name, DateOrder.MDY))


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
    forms = {column.field: column.form for column in columns}
    for key in options.dedupe_by:
        if key == NAME and not forms.keys().isdisjoint(NAME_PARTS):
            continue
        if key not in forms:
            reason = "no column becomes it"
        elif key in (*CONTACT_FIELDS, *NAME_PARTS, *CONTACT_NAME_PARTS):
            reason = "it is not a field of the record itself"
        elif forms[key] is Form.INSTANT:
            reason = "it is a time"
        else:
            continue
        raise ImportRefused(f"Rows cannot be matched by {key!r}: {reason}.")


def detect_date_orders(options: ImportOptions, table: SourceTable) -> DateOrders:
    """Find out how dates are written, column by column. Reads the whole file once.

    A column whose dates fit both orders is read like the others of the file, if those agree. The
    option `dates` settles it for all. Raises `ImportRefused` if the options do not fit the columns.
    """
    columns = columns_of(options, table.columns)
    dated = [each.name for each in columns if each.has_dates and each.name]
    if options.dates is not None:
        return DateOrders(dict.fromkeys(dated, options.dates))
    if not dated:
        return DateOrders()
    detectors = {name: DateOrderDetector() for name in dated}
    for row in table.rows():
        for name, detector in detectors.items():
            if value := row.cells.get(name):
                detector.add(value)
    certain = {each.order for each in detectors.values() if each.order and each.is_certain}
    orders: dict[str, DateOrder] = {}
    issues: list[ImportIssue] = []
    for name, detector in detectors.items():
        if (order := detector.order) is None:
            continue
        orders[name] = order
        if detector.is_certain:
            continue
        if not detector.is_mixed and len(certain) == 1:
            (orders[name],) = certain
        else:
            issues.append(_doubtful_dates(name, order, is_mixed=detector.is_mixed))
    return DateOrders(orders, issues)


def _doubtful_dates(column: str, order: DateOrder, *, is_mixed: bool) -> ImportIssue:
    doubt = (
        "Some dates are day first, others month first" if is_mixed else "All dates fit both orders"
    )
    written = "day/month/year" if order is DateOrder.DMY else "month/day/year"
    message = f"{doubt}: read as {written}. The option dates changes that."
    return warning(HEADER_ROW, column, "", "doubtful_dates", message)
