"""Which field each column becomes: the options of an import, and the proposal for a new file.

A field is proposed by the column's name, as other systems spell it, and by its values. Names are
compared as `cells.normalised` returns them. A field that the values do not fit is not proposed: the
column stays a custom field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from commands.importing.cells import (
    DateOrder,
    DateOrderDetector,
    Form,
    Lookup,
    form_of,
    normalised,
    parse_choice,
    parse_date,
    parse_instant,
    parse_money,
)
from commands.importing.files import SourceTable
from commands.importing.issues import ImportFault, ImportIssue, ImportRefused, shorten, warning
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.fields import CUSTOM
from domain.shared.kinds import BY_PLURAL, KINDS, by_either_number

IMPORTABLE: Mapping[str, type[Entity]] = MappingProxyType(
    {plural: kind for plural, kind in BY_PLURAL.items() if kind.IS_IMPORTABLE}
)
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
    """What happens to a row whose key exists: it is skipped, updates the entity, or creates one.

    `update` sets the fields for which the row has a value: an empty cell clears nothing, and a
    default is for new entities only. Rows of one file with the same key are always one entity.
    """

    SKIP = "skip"
    UPDATE = "update"
    CREATE = "create"


@dataclass(frozen=True)
class ImportOptions:
    """How the columns of a file become fields, and how its rows are matched with entities.

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
    """How the dates in each column of a file are written, and warnings where that is uncertain."""

    by_column: Mapping[str, DateOrder] = field(default_factory=dict)
    issues: Sequence[ImportIssue] = ()


def kind_of(plural: str) -> type[Entity]:
    """The kind of this name, in the plural or singular. Raises `ImportRefused`."""
    kind = IMPORTABLE.get(by_either_number(IMPORTABLE).get(plural, plural))
    if kind is None:
        message = f"{shorten(plural)} cannot be imported; {', '.join(IMPORTABLE)} can."
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
            reason = "it is not a field of the entity itself"
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


# Proposals

FITTING_MIN = 0.8
"""Minimum share of a column's values that fit a field whose name differs from the column's."""
FITTING_OF_SAME_NAME_MIN = 0.2
"""Minimum share for the field of the same name. The rows that do not fit it are reported later."""
RANK_BY_VALUES = 1_000
"""Rank of a field that only the values suggest: below every spelling."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE = re.compile(r"(?=(?:\D*\d){6})\+?[0-9().\-/ x#*]{6,40}")
_DATE_LIKE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")

SPELLINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "company": (
            *("company name", "organization", "organisation", "organization name", "account"),
            *("account name", "business", "business name", "firm", "customer", "client", "firma"),
            *("customer name", "client name", "unternehmen", "entreprise", "empresa", "name"),
        ),
        "name": ("full name", "display name", "title", "subject"),
        "title": ("job title", "position", "role", "subject", "name"),
        "firstName": ("first name", "given name", "forename", "vorname", "prénom", "nombre"),
        "lastName": ("last name", "surname", "family name", "nachname", "apellido"),
        "email": ("e-mail", "mail", "email address", "e-mail address", "work email", "correo"),
        "phone": ("phone number", "telephone", "tel", "mobile", "cell", "telefon", "téléphone"),
        "type": ("account type", "category", "kind", "relationship"),
        "status": ("state", "account status", "lifecycle", "task status"),
        "priority": ("importance", "urgency", "rating", "priorität"),
        "nextAction": ("next step", "next steps", "follow up", "todo"),
        "nextActionDate": ("next step date", "follow up date", "next contact", "follow up on"),
        "checkSize": ("check", "ticket size", "investment size", "cheque size"),
        "dealValue": ("value", "deal size", "amount", "revenue", "contract value"),
        "assignedTo": (
            *("assigned to", "owner", "account owner", "assignee", "sales rep", "sales agent"),
            *("responsible", "salesperson", "account manager", "record owner", "deal owner"),
        ),
        "accountId": (
            *("account", "account name", "company", "company name", "organization", "customer"),
            *("organisation", "client"),
        ),
        "occurredAt": ("created at", "created", "created on", "create date", "date created"),
        "stage": ("deal stage", "sales stage", "pipeline stage", "opportunity stage"),
        "value": ("amount", "deal value", "close value", "price", "deal size"),
        "engagedOn": ("engage date", "start date", "opened", "open date"),
        "expectedCloseOn": ("expected close date", "expected close", "forecast close date"),
        "closedOn": ("close date", "closed date", "closed at", "closed", "won date"),
        "dueDate": ("due", "deadline", "due on", "due by"),
        "description": ("details", "notes", "comment", "comments"),
        "startsAt": ("start", "starts", "start time", "begins", "meeting date", "when"),
        "endsAt": ("end", "ends", "end time", "until"),
        "location": ("place", "where", "venue", "room"),
        "agenda": ("description", "topics", "notes"),
        "body": ("note", "text", "content", "notes", "comment"),
    }
)
"""Names of fields in other systems, the best first: of two columns the better spelling wins."""

CONTACT_PREFIXES = (
    "contact",
    "primary contact",
    "main contact",
    "contact person",
    "ansprechpartner",
)
"""Words before a contact's field in a row of accounts; alone they mean the contact's name."""

EXPORT_ONLY = frozenset(
    (
        *("id", "version", "updatedAt", "accountName", "assignedToName", "contacts"),
        *("statusChangedAt", "memberName"),
        *("contactCount", "taskCount", "meetingCount", "noteCount", "openOpportunityCount"),
        *(name for kind in KINDS.values() for name in kind.FIELDS.read_only()),
    )
)
"""Columns of our exports that cannot be set by an import: they are left out."""


class Why(StrEnum):
    """Why a field was proposed."""

    NAME = "name"
    SPELLING = "spelling"
    VALUES = "values"
    CUSTOM = "custom"
    LEFT_OUT = "left_out"


@dataclass(frozen=True)
class ColumnProposal:
    """The field that a column probably is. An empty field leaves the column out."""

    field: str
    why: Why


def propose(kind: type[Entity], columns: Mapping[str, Sequence[str]]) -> dict[str, ColumnProposal]:
    """Propose a field for every column, no field twice. `columns` maps names to sample values."""
    candidates = sorted(
        (rank, order, target, column, why)
        for order, (column, values) in enumerate(columns.items())
        for rank, target, why in _candidates(kind, column, values)
    )
    found: dict[str, ColumnProposal] = {}
    taken: set[str] = set()
    for _, _, target, column, why in candidates:
        if column not in found and target not in taken:
            found[column] = ColumnProposal(target, why)
            taken.add(target)
    return {column: found.get(column) or _without_field(column) for column in columns}


def _without_field(column: str) -> ColumnProposal:
    if column.startswith(RESERVED_PREFIX) or column in EXPORT_ONLY:
        return ColumnProposal("", Why.LEFT_OUT)
    return ColumnProposal(CUSTOM_PREFIX + column.removeprefix(CUSTOM_PREFIX), Why.CUSTOM)


def _candidates(
    kind: type[Entity], column: str, values: Sequence[str]
) -> Iterable[tuple[int, str, Why]]:
    """The fields that the column may be, each with its rank (0 is the best) and reason."""
    if column in EXPORT_ONLY or column.startswith((RESERVED_PREFIX, CUSTOM_PREFIX)):
        return
    fields = fields_of(kind)
    name = normalised(column)
    for target, rank in _ranks(kind).get(name, {}).items():
        form, choices = fields[target]
        least = FITTING_MIN if rank else FITTING_OF_SAME_NAME_MIN
        if _share_that_fits(target, form, choices, values) >= least:
            yield rank, target, Why.SPELLING if rank else Why.NAME
    by_values = _field_by_values(kind, values)
    if by_values in fields:
        yield RANK_BY_VALUES, by_values, Why.VALUES


@cache
def _ranks(kind: type[Entity]) -> Mapping[str, Mapping[str, int]]:
    """For each normalised spelling the fields that it may mean, with the rank of the spelling."""
    ranks: dict[str, dict[str, int]] = {}
    for target in fields_of(kind):
        for rank, spelling in enumerate(_spellings(kind, target)):
            ranks.setdefault(normalised(spelling), {}).setdefault(target, rank)
    return ranks


def _spellings(kind: type[Entity], field: str) -> list[str]:
    """The field's name and its names in other systems, the best first."""
    if kind is not Account or not field.startswith("contact"):
        return [field, *SPELLINGS.get(field, ())]
    own = field.removeprefix("contact")
    own = own[0].lower() + own[1:]
    names = [own, *SPELLINGS.get(own, ())]
    spellings = [field, *(f"{prefix} {each}" for prefix in CONTACT_PREFIXES for each in names)]
    if own == NAME:
        spellings += CONTACT_PREFIXES
    # An account has no e-mail, phone or name parts: without a prefix they are the contact's too.
    return spellings + (["full name", "job title", "position"] if own in (NAME, "title") else names)


def _share_that_fits(
    field: str, form: Form, choices: tuple[str, ...], values: Sequence[str]
) -> float:
    """The share of the values that the field accepts; 1 without values."""
    if not values:
        return 1.0
    own = CONTACT_FIELDS.get(field, field)
    return sum(_fits(own, form, choices, each) for each in values) / len(values)


def _fits(field: str, form: Form, choices: tuple[str, ...], value: str) -> bool:
    if field == "email":
        return _EMAIL.fullmatch(value) is not None
    if field == "phone":
        return _PHONE.fullmatch(value) is not None
    try:
        if form is Form.CHOICE:
            parse_choice(value, choices)
        elif form is Form.MONEY:
            float(parse_money(value))
        elif form in (Form.DATE, Form.INSTANT):
            return _is_date(value)
    except ValueError:
        return False
    return True


def _is_date(value: str) -> bool:
    if _DATE_LIKE.fullmatch(value):
        return any(_parses(value, order) for order in (DateOrder.MDY, DateOrder.DMY))
    return _parses(value, DateOrder.ISO)


def _parses(value: str, order: DateOrder) -> bool:
    for parse in (parse_date, parse_instant):
        try:
            parse(value, order)
        except ValueError:
            continue
        return True
    return False


def _field_by_values(kind: type[Entity], values: Sequence[str]) -> str:
    """The field that the values alone suggest: e-mail address or phone number; empty if none."""
    if not values:
        return ""
    if all(_EMAIL.fullmatch(each) for each in values):
        return "contactEmail" if kind is Account else "email"
    if (
        all(_PHONE.fullmatch(each) for each in values)
        and any(each.startswith(("+", "0", "(")) for each in values)
        and not all(_is_date(each) for each in values)
    ):
        return "contactPhone" if kind is Account else "phone"
    return ""
