"""Duplicates: for each contact and account, the keys that it shares with its duplicates.

The rules that make a key are defined here, so that changing one changes the projection's version
and calls for a rebuild.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.shared.text import folded
from projections.changes import Counts, Projection, RowKey, Rows, Step, Table

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


@dataclass(frozen=True)
class Keyed:
    """In each table, a row for each entity of a kind that has a key."""

    kind: str
    keys: Mapping[str, tuple[str, Normaliser]]
    """For each table, the field and the function that makes its key."""

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the kind that may change a key."""
        names = ("created", "restored", "updated", "merged", "deleted")
        return frozenset(f"{self.kind}.{name}" for name in names)

    def steps(self, tables: Mapping[str, Rows]) -> Mapping[str, Step]:
        """The step for each topic."""
        keyed = [_KeyedRows(tables[table], *key) for table, key in self.keys.items()]
        inserted, changed = _keys_set(keyed, is_new=True), _keys_set(keyed, is_new=False)
        names = {
            "created": inserted,
            "restored": inserted,
            "updated": changed,
            "merged": changed,
            "deleted": _keys_removed(keyed),
        }
        return {f"{self.kind}.{name}": step for name, step in names.items()}


class _KeyedRows:
    """The rows of one table of keys, and the field and the function that make a key."""

    def __init__(self, rows: Rows, field: str, normalise: Normaliser) -> None:
        self.rows = rows
        self.field = field
        self._normalise = normalise
        self._fresh = rows.blank()
        self._key, self._version = rows.slot("key"), rows.slot("version")

    def key_of(self, value: Any) -> str | None:
        """The key of a field's value."""
        return self._normalise(value) if value else None

    def set(self, entity: RowKey, key: str | None, version: int) -> None:
        """Set the key of an entity; without a key it has no row."""
        if key is None:
            self.rows.remove(entity, version)
            return
        row = self._fresh.copy()
        row[self._key] = key
        row[self._version] = version
        self.rows.put(entity, row, version)


def _keys_set(keyed: list[_KeyedRows], *, is_new: bool) -> Step:
    def step(
        key: RowKey, _account: RowKey | None, version: int, _at: str, data: Mapping[str, Any]
    ) -> None:
        values = data["fields" if is_new else "changes"]
        found = [
            (each, each.key_of(values[each.field] if is_new else values[each.field]["after"]))
            for each in keyed
            if each.field in values
        ]
        for each, text in found:
            each.set(key, text, version)

    return step


def _keys_removed(keyed: list[_KeyedRows]) -> Step:
    def step(
        key: RowKey, _account: RowKey | None, version: int, _at: str, _data: Mapping[str, Any]
    ) -> None:
        for each in keyed:
            each.rows.remove(key, version)

    return step


def _table(name: str) -> Table:
    return Table(name, counts=(Counts(name.replace("keys", "counts"), by=("key",)),))


PROJECTION = Projection(
    name="duplicates",
    tables=(_table("email_keys"), _table("phone_keys"), _table("company_keys")),
    rules=(
        Keyed("contact", {"email_keys": ("email", email_key), "phone_keys": ("phone", phone_key)}),
        Keyed("account", {"company_keys": ("company", company_key)}),
    ),
)
