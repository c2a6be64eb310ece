"""Proposes a field for each column of a file: by the column's name, as other systems spell it, and
by its values.

A proposal is shown with its reason and can be changed. Names are compared as `cells.normalised`
returns them. A field is not proposed if the values do not fit it: the column stays a custom field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from commands.importing.cells import (
    DateOrder,
    Form,
    normalised,
    parse_choice,
    parse_date,
    parse_instant,
    parse_money,
)
from commands.importing.mapping import (
    CONTACT_FIELDS,
    CUSTOM_PREFIX,
    NAME,
    RESERVED_PREFIX,
    fields_of,
)
from domain.account import Account
from domain.shared.entity import Entity
from domain.shared.kinds import KINDS

FITTING_MIN = 0.8
"""Minimum share of a column's values that fit a field whose name differs from the column's."""
FITTING_OF_SAME_NAME_MIN = 0.2
"""Minimum share for the field of the same name. The rows that do not fit it are reported later."""
RANK_BY_VALUES = 1_000

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
        (rank, order, field, column, why)
        for order, (column, values) in enumerate(columns.items())
        for rank, field, why in _candidates(kind, column, values)
    )
    found: dict[str, ColumnProposal] = {}
    taken: set[str] = set()
    for _, _, field, column, why in candidates:
        if column not in found and field not in taken:
            found[column] = ColumnProposal(field, why)
            taken.add(field)
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
    for field, rank in _ranks(kind).get(name, {}).items():
        form, choices = fields[field]
        least = FITTING_MIN if rank else FITTING_OF_SAME_NAME_MIN
        if _share_that_fits(field, form, choices, values) >= least:
            yield rank, field, Why.SPELLING if rank else Why.NAME
    by_values = _field_by_values(kind, values)
    if by_values in fields:
        yield RANK_BY_VALUES, by_values, Why.VALUES


@cache
def _ranks(kind: type[Entity]) -> Mapping[str, Mapping[str, int]]:
    """For each normalised spelling the fields that it may mean, with the rank of the spelling."""
    ranks: dict[str, dict[str, int]] = {}
    for field in fields_of(kind):
        for rank, spelling in enumerate(_spellings(kind, field)):
            ranks.setdefault(normalised(spelling), {}).setdefault(field, rank)
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
    """The field that the values alone show: an e-mail address or a phone number; empty if none."""
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
