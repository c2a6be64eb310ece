"""Duplicates: for each contact and account, the keys that it shares with its duplicates.

The rules that make a key are defined here, so that changing one changes the projection's version
and calls for a rebuild.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from domain.shared.text import folded
from eventlog.reading import RecordedEvent
from projections.changes import Counts, Handler, Projection, Put, Remove, RowChange, Table

PHONE_DIGITS_MIN = 7
"""Shorter numbers are extensions or emergency numbers, which identify no person."""

_LEGAL_FORMS = """
ab ag aps as asa bv co company corp corporation cv doo ev gbr gmbh inc incorporated kft kg kgaa kk
limited llc llp lp ltd mbh nv ohg oy oyj plc pte pty sa sab sarl sas se sl slu spa sprl srl sro ug
zoo
"""
LEGAL_FORMS = frozenset(_LEGAL_FORMS.split())
"""Words, without dots, at the end of a company's name that give its legal form."""

_SEPARATORS = re.compile(r"[\W_]+")
_NOT_DIGITS = re.compile(r"\D+")
_EXTENSION = re.compile(r"[x#].*", re.IGNORECASE)

Normaliser = Callable[[str], str | None]


def email_key(email: str) -> str | None:
    """The address trimmed and in lower case, with its dots, which some providers ignore."""
    return email.strip().casefold() or None


def phone_key(phone: str) -> str | None:
    """The digits of a number, after `+` if it is international (`+` or `00`).

    `(0)` in an international number and extensions are left out. A number without a country code
    equals only numbers without one. None if it has fewer than PHONE_DIGITS_MIN digits.
    """
    dialled = _EXTENSION.sub("", phone).strip()
    is_international = dialled.lstrip("( ").startswith(("+", "00"))
    if is_international:
        dialled = dialled.replace("(0)", "")
    digits = _NOT_DIGITS.sub("", dialled)
    if is_international:
        digits = digits.removeprefix("00")
    if len(digits) < PHONE_DIGITS_MIN:
        return None
    return f"+{digits}" if is_international else digits


def company_key(company: str) -> str | None:
    """The name without case, accents, punctuation, spaces and legal forms at the end.

    A name that consists of a legal form or of punctuation only is kept.
    """
    plain = folded(company)
    words = [word for word in _SEPARATORS.split(plain.replace(".", "")) if word]
    name = list(words)
    while name and name[-1] in LEGAL_FORMS:
        name.pop()
    return "".join(name or words) or plain.strip() or None


def keyed(kind: str, keys: dict[str, tuple[str, Normaliser]]) -> dict[str, Handler]:
    """Handlers that keep, in each table, a row for each entity of the kind that has a key.

    keys: for each table, the field and the function that makes its key.
    """

    def row(event: RecordedEvent, table: str, normalise: Normaliser, value: Any) -> RowChange:
        key = normalise(value) if value else None
        if key is None:
            return Remove(table, event.stream_id)
        return Put(table, event.stream_id, {"key": key, "version": event.stream_version})

    def created(event: RecordedEvent) -> Iterable[RowChange]:
        fields = event.data["fields"]
        return [
            row(event, table, normalise, fields.get(field))
            for table, (field, normalise) in keys.items()
        ]

    def changed(event: RecordedEvent) -> Iterable[RowChange]:
        changes = event.data["changes"]
        return [
            row(event, table, normalise, changes[field]["after"])
            for table, (field, normalise) in keys.items()
            if field in changes
        ]

    def deleted(event: RecordedEvent) -> Iterable[RowChange]:
        return [Remove(table, event.stream_id) for table in keys]

    return {
        f"{kind}.created": created,
        f"{kind}.restored": created,
        f"{kind}.updated": changed,
        f"{kind}.merged": changed,
        f"{kind}.deleted": deleted,
    }


def _table(name: str) -> Table:
    return Table(name, counts=Counts(name.replace("keys", "counts"), by=("key",)))


PROJECTION = Projection(
    name="duplicates",
    tables=(_table("email_keys"), _table("phone_keys"), _table("company_keys")),
    handlers={
        **keyed(
            "contact", {"email_keys": ("email", email_key), "phone_keys": ("phone", phone_key)}
        ),
        **keyed("account", {"company_keys": ("company", company_key)}),
    },
)
