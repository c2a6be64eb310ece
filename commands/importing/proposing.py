"""Which field a column probably is: by its name in the spellings of other systems, and its values.

A proposal is shown with its reason and can be changed. Names are compared as `lookup.normalised`
leaves them. A field whose values do not fit is not proposed: the column stays a custom field.
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
    parse_choice,
    parse_date,
    parse_instant,
    parse_money,
)
from commands.importing.lookup import normalised
from commands.importing.options import (
    CONTACT_FIELDS,
    CUSTOM_PREFIX,
    NAME,
    RESERVED,
    fields_of,
)
from domain.account import Account
from domain.shared.entity import Entity
from domain.shared.kinds import KINDS

FITTING_MIN = 0.8
"""So large a part of a column's values has to fit a field that goes by another name."""
FITTING_OF_SAME_NAME_MIN = 0.2
"""Of the field by whose name it goes; the other rows are then reported."""

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
"""How fields are called elsewhere; of two columns the better spelling gets the field."""

OF_A_CONTACT = ("contact", "primary contact", "main contact", "contact person", "ansprechpartner")
"""What stands before a field of the contact in a row of accounts, or alone for its name."""

NOT_OURS = frozenset(
    (
        *("id", "version", "updatedAt", "accountName", "assignedToName", "contacts"),
        *("statusChangedAt", "memberName"),
        *("contactCount", "taskCount", "meetingCount", "noteCount", "openOpportunityCount"),
        *(name for kind in KINDS.values() for name in kind.FIELDS.read_only()),
    )
)
"""Columns of our own exports that are kept by the server: they are left out."""


class Why(StrEnum):
    """Why a field was proposed."""

    NAME = "name"
    SPELLING = "spelling"
    VALUES = "values"
    CUSTOM = "custom"
    LEFT_OUT = "left_out"


@dataclass(frozen=True)
class ColumnProposal:
    """The field that a column probably is; empty where it is left out."""

    field: str
    why: Why


def propose(kind: type[Entity], columns: Mapping[str, Sequence[str]]) -> dict[str, ColumnProposal]:
    """A field for every column, no field twice. `columns` are names with some of their values."""
    claims = sorted(
        (rank, order, field, column, why)
        for order, (column, values) in enumerate(columns.items())
        for rank, field, why in _claims(kind, column, values)
    )
    found: dict[str, ColumnProposal] = {}
    for _, _, field, column, why in claims:
        if column not in found and field not in {each.field for each in found.values()}:
            found[column] = ColumnProposal(field, why)
    return {column: found.get(column) or _other(column) for column in columns}


def _other(column: str) -> ColumnProposal:
    if column.startswith(RESERVED) or column in NOT_OURS:
        return ColumnProposal("", Why.LEFT_OUT)
    key = column.removeprefix(CUSTOM_PREFIX)
    return ColumnProposal(CUSTOM_PREFIX + key, Why.CUSTOM)


def _claims(
    kind: type[Entity], column: str, values: Sequence[str]
) -> Iterable[tuple[int, str, Why]]:
    """Fields that the column may be, the least rank first."""
    name = normalised(column)
    if column in NOT_OURS or column.startswith((RESERVED, CUSTOM_PREFIX)):
        return
    fields = fields_of(kind)
    for field, (form, choices) in fields.items():
        rank = _rank(kind, field, name)
        least = FITTING_MIN if rank else FITTING_OF_SAME_NAME_MIN
        if rank is not None and _fitting(field, form, choices, values) >= least:
            yield rank, field, Why.NAME if rank == 0 else Why.SPELLING
    by_values = _by_values(kind, values)
    if by_values in fields:
        yield 1_000, str(by_values), Why.VALUES


def _rank(kind: type[Entity], field: str, name: str) -> int | None:
    """How well the name fits the field; None where it does not."""
    spellings = _spellings(kind, field)
    return spellings.index(name) if name in spellings else None


@cache
def _spellings(kind: type[Entity], field: str) -> tuple[str, ...]:
    known = [field, *SPELLINGS.get(field, ())]
    if kind is Account and field.startswith("contact"):
        own = field.removeprefix("contact")
        own = own[0].lower() + own[1:]
        names = [own, *SPELLINGS.get(own, ())]
        known = [field, *(f"{before} {each}" for before in OF_A_CONTACT for each in names)]
        known += OF_A_CONTACT if own == NAME else ()
        # Alone they are the contact's too: an account has neither names nor addresses.
        known += names if own not in (NAME, "title") else ()
        known += ("full name", "job title", "position") if own in (NAME, "title") else ()
    return tuple(normalised(each) for each in known)


def _fitting(field: str, form: Form, choices: tuple[str, ...], values: Sequence[str]) -> float:
    """The part of the values that are what the field takes; without any the name alone counts."""
    if not values:
        return 1.0
    own = CONTACT_FIELDS.get(field, field)
    return sum(_is_one(own, form, choices, each) for each in values) / len(values)


def _is_one(field: str, form: Form, choices: tuple[str, ...], value: str) -> bool:
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
    try:
        parse_date(value, order)
    except ValueError:
        pass
    else:
        return True
    try:
        parse_instant(value, order)
    except ValueError:
        return False
    return True


def _by_values(kind: type[Entity], values: Sequence[str]) -> str | None:
    """The field that values alone give away."""
    prefix = "contact" if kind is Account else ""
    for own, pattern in (("email", _EMAIL), ("phone", _PHONE)):
        if values and all(pattern.fullmatch(each) for each in values):
            if own == "phone" and all(_is_date(each) for each in values):
                continue
            if own == "phone" and not any(each.startswith(("+", "0", "(")) for each in values):
                continue
            return f"{prefix}{own[0].upper()}{own[1:]}" if prefix else own
    return None
