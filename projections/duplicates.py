"""Duplicates: for each contact and account the keys by which others are the same.

What a key is made of is written here, so that another rule is another version of the projection,
and asks for a rebuild.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from eventlog.reading import RecordedEvent
from projections.changes import Counts, Handler, Projection, Put, Remove, RowChange, Table

PHONE_DIGITS_MIN = 7
"""Fewer are an extension or an emergency call, and nobody's own."""

_LEGAL_FORMS = """
ab ag aps as asa bv co company corp corporation cv doo ev gbr gmbh inc incorporated kft kg kgaa kk
limited llc llp lp ltd mbh nv ohg oy oyj plc pte pty sa sab sarl sas se sl slu spa sprl srl sro ug
zoo
"""
LEGAL_FORMS = frozenset(_LEGAL_FORMS.split())
"""Written without dots; words at the end of a company's name that tell its legal form."""

_SEPARATORS = re.compile(r"[\W_]+")
_NOT_DIGITS = re.compile(r"\D+")
_EXTENSION = re.compile(r"[x#].*", re.IGNORECASE)

Normaliser = Callable[[str], str | None]


def email_key(email: str) -> str | None:
    """In lower case and trimmed, and nothing else: what a provider makes of dots is its own."""
    return email.strip().casefold() or None


def phone_key(phone: str) -> str | None:
    """Digits alone, after `+` where the number is international (`+` or `00`).

    `(0)` in an international number is not dialled, and an extension is left out. A number without
    its country equals only those written without. None where there are too few digits.
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
    """Without case, accents, punctuation, spaces and legal forms at the end.

    What is nothing but a legal form, or nothing but punctuation, stays what it is.
    """
    decomposed = unicodedata.normalize("NFKD", company)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()
    words = [word for word in _SEPARATORS.split(plain.replace(".", "")) if word]
    name = list(words)
    while name and name[-1] in LEGAL_FORMS:
        name.pop()
    return "".join(name or words) or plain.strip() or None


def keyed(kind: str, keys: dict[str, tuple[str, Normaliser]]) -> dict[str, Handler]:
    """Handlers that keep a row in each table for each of the kind that has a key.

    `keys` says, for each table, of which field, and how it is normalised.
    """

    def row(event: RecordedEvent, table: str, normalise: Normaliser, value: Any) -> RowChange:
        key = normalise(value) if value else None
        if key is None:
            return Remove(table, event.stream_id)
        return Put(table, event.stream_id, {"key": key, "version": event.stream_version})

    def came(event: RecordedEvent) -> Iterable[RowChange]:
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

    def went(event: RecordedEvent) -> Iterable[RowChange]:
        return [Remove(table, event.stream_id) for table in keys]

    return {
        f"{kind}.created": came,
        f"{kind}.restored": came,
        f"{kind}.updated": changed,
        f"{kind}.merged": changed,
        f"{kind}.deleted": went,
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
