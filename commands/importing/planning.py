"""From a row of a table to the commands that record it. Pure: no I/O, the clock is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from commands.importing.cells import (
    Form,
    parse_choice,
    parse_date,
    parse_instant,
    parse_money,
    unescaped,
)
from commands.importing.findings import Finding, error, warning
from commands.importing.lookup import Lookup, Match, Miss
from commands.importing.options import (
    ACCOUNT,
    CONTACT_FIELDS,
    CUSTOM_PREFIX,
    NAME,
    NAME_PARTS,
    OCCURRED,
    PARTS_OF_CONTACT,
    Column,
    Directory,
    ImportOptions,
)
from commands.importing.partial import canonical
from commands.importing.tables import CELL_MAX_CHARS, SourceRow
from commands.importing.timelines import TimelineStep, timeline
from commands.links import MEMBER_FIELDS
from domain.contact import Contact
from domain.shared.entity import Entity
from domain.shared.fields import CUSTOM, FieldValues
from domain.shared.refusals import FieldError, InvalidFields, OccurredTooEarly, Refusal

DAY = timedelta(days=1)

DedupeKey = tuple[str, ...]


@dataclass(frozen=True)
class ImportedRow:
    """A row as commands: the first step creates, each later one revises. Errors keep it out."""

    number: int
    kind: type[Entity]
    account_id: UUID | None
    steps: tuple[TimelineStep, ...]
    findings: tuple[Finding, ...]
    columns: Mapping[str, str]
    """Columns by field, to say which cell a refusal is about."""
    cells: Mapping[str, str]
    values: FieldValues = field(default_factory=dict)
    """The fields of all steps in canonical form."""
    given: frozenset[str] = frozenset()
    """Fields for which the row has something of its own; the others are for a new thing only."""
    contact: FieldValues | None = None
    """The contact of the account that the row has as well, in canonical form."""
    contact_given: frozenset[str] = frozenset()
    """Fields of the contact for which the row has something of its own."""

    @property
    def is_good(self) -> bool:
        """Whether nothing found so far keeps the row out."""
        return not any(each.is_error for each in self.findings)

    def create(self, entity_id: UUID, workspace_id: UUID, now: datetime) -> Entity:
        """A new entity with the events of this row pending. Raises `Refusal`."""
        first, *later = self.steps
        entity = self.kind.create(
            entity_id,
            workspace_id,
            first.fields,
            at=first.at or now,
            account_id=self.account_id,
        )
        for step in later:
            entity.revise({**entity.values, **step.fields}, at=step.at or now)
        return entity

    def revise(self, entity: Entity, now: datetime) -> None:
        """Set the fields that the row has something for. Raises `Refusal`."""
        values = {name: value for name, value in self.values.items() if name in self.given}
        own = {
            key: value
            for key, value in self.values.get(CUSTOM, {}).items()
            if CUSTOM_PREFIX + key in self.given
        }
        values = {**values, CUSTOM: own} if own else values
        entity.revise(merged(entity.values, values), at=max(now, entity.modified_on))

    def revise_contact(self, contact: Entity, now: datetime) -> None:
        """Set the fields of the contact that the row has something for. Raises `Refusal`."""
        contact.revise(self.revised_contact(contact), at=max(now, contact.modified_on))

    def revised_contact(self, contact: Entity) -> FieldValues:
        """The fields of the contact with those that the row has something for."""
        values = self.contact or {}
        return {**contact.values, **{name: values[name] for name in self.contact_given}}

    def refused(self, refusal: Refusal) -> list[Finding]:
        """What the domain refused, cell by cell."""
        if isinstance(refusal, InvalidFields):
            return [
                self.failure(each.field, _code(each.kind), each.message) for each in refusal.errors
            ]
        if isinstance(refusal, OccurredTooEarly):
            late = "It cannot have ended before it began."
            return [self.failure("closedOn", "occurred_too_early", late)]
        return [self.failure("", "refused", str(refusal))]

    def failure(self, name: str, code: str, message: str) -> Finding:
        """An error in the cell that became this field."""
        column = self.columns.get(name, "" if name == "body" else name)
        return error(self.number, column, self.cells.get(column, ""), code, message)


def merged(before: FieldValues, given: FieldValues) -> FieldValues:
    """The fields before with those that are given; custom fields one by one."""
    custom = {**before.get(CUSTOM, {}), **given.get(CUSTOM, {})}
    return {**before, **given, CUSTOM: custom} if custom else {**before, **given}


class RowPlanner:
    """Plans the rows of one import. Not thread-safe: the lookups remember what they found."""

    def __init__(
        self,
        options: ImportOptions,
        columns: Iterable[Column],
        directory: Directory,
        now: Callable[[], datetime],
    ) -> None:
        self._options = options
        self._columns = list(columns)
        self._directory = directory
        self._now = now
        self._column_of = {column.field: column.name for column in self._columns}
        self._corrects = {*options.corrections, *options.known}

    def plan_row(self, row: SourceRow) -> ImportedRow:
        """What is to be recorded for this row, and all that there is to say about it."""
        draft = _Draft(row.number)
        if row.extra:
            draft.error("", row.extra[0], "too_many_cells", "The row has more cells than columns.")
        for column in self._columns:
            self._take(draft, column, row.cells.get(column.name, ""))
        kind = self._options.kind
        account_column = self._column_of.get(ACCOUNT, "")
        if kind.ACCOUNT_REQUIRED and draft.account_id is None and draft.is_fine(account_column):
            message = f"A {kind.KIND} hangs on an account."
            draft.error(account_column, "", "no_account", message)
        draft.join_names()
        steps = self._timed(draft, timeline(kind.KIND, draft.fields, draft.occurred_at))
        planned = ImportedRow(
            row.number, kind, draft.account_id, steps, tuple(draft.findings), self._column_of,
            row.cells, given=frozenset(draft.given() - draft.defaulted),
        )  # fmt: skip
        return self._checked(planned, draft)

    def _checked(self, planned: ImportedRow, draft: _Draft) -> ImportedRow:
        """The row with its fields in canonical form, or with what is wrong with them."""
        if not planned.is_good:
            return planned
        found: list[Finding] = []
        values: FieldValues = {}
        contact: FieldValues | None = None
        fields = {name: value for step in planned.steps for name, value in step.fields.items()}
        try:
            values = planned.kind.FIELDS.prevalidated(fields)
        except InvalidFields as invalid:
            if self._may_lack(invalid):
                values = canonical(planned.kind, fields)
            else:
                found += planned.refused(invalid)
        if draft.contact:
            try:
                contact = Contact.FIELDS.prevalidated(_named(draft.contact))
            except InvalidFields as invalid:
                found += planned.refused(InvalidFields(list(map(_of_contact, invalid.errors))))
        findings = (*planned.findings, *found)
        steps = planned.steps
        if len(steps) == 1 and values:
            steps = (replace(steps[0], fields=values),)
        return replace(
            planned,
            steps=steps,
            findings=findings,
            values=values,
            contact=contact,
            contact_given=frozenset(draft.contact),
        )

    def _may_lack(self, invalid: InvalidFields) -> bool:
        """Whether the row may do without, for it may be about what is there and has them."""
        key = self._options.dedupe_by
        return bool(key) and all(
            each.kind == "missing" and each.field not in key for each in invalid.errors
        )

    def _take(self, draft: _Draft, column: Column, cell: str) -> None:
        text = unescaped(cell)
        if len(text) > CELL_MAX_CHARS:
            message = f"The cell has more than {CELL_MAX_CHARS:,} characters."
            draft.error(column.name, text, "cell_too_long", message)
            return
        if not text and column.default:
            draft.defaulted.add(column.field)
        text = text or column.default
        if column.name in self._corrects:
            text = self._corrected(draft, column, text)
        if column.field == ACCOUNT:
            self._take_account(draft, column, text)
        elif not text:
            return
        elif column.field in MEMBER_FIELDS:
            self._take_member(draft, column, text)
        elif column.field.startswith(CUSTOM_PREFIX):
            draft.set_custom(column.field[len(CUSTOM_PREFIX) :], text)
        elif column.field in CONTACT_FIELDS:
            draft.contact[CONTACT_FIELDS[column.field]] = text
        elif column.field in NAME_PARTS or column.field in PARTS_OF_CONTACT:
            draft.parts[column.field] = text
        else:
            self._take_field(draft, column, text)

    def _corrected(self, draft: _Draft, column: Column, text: str) -> str:
        """The text after explicit corrections and the list of known values."""
        right = self._options.corrections.get(column.name, {}).get(text)
        if right is not None:
            draft.corrected(column, text, right)
            text = right
        known = self._options.known.get(column.name)
        if known is None or not text:
            return text
        found = known.find(text)
        if isinstance(found, Miss):
            message = f"This value is not known.{_or_rather(found)}"
            draft.warning(column.name, text, "unknown_value", message)
            return text
        if found.name != text:
            draft.corrected(column, text, found.name)
        return found.name

    def _take_account(self, draft: _Draft, column: Column, text: str) -> None:
        if text:
            draft.account_id = self._resolved(draft, column, text, self._directory.accounts)
        elif not self._options.kind.ACCOUNT_REQUIRED:
            message = f"The {self._options.kind.KIND} has no account."
            draft.warning(column.name, "", "no_account", message)

    def _take_member(self, draft: _Draft, column: Column, text: str) -> None:
        member_id = self._resolved(draft, column, text, self._directory.members)
        if member_id is not None:
            draft.fields[column.field] = str(member_id)

    def _resolved(
        self, draft: _Draft, column: Column, text: str, lookup: Lookup[UUID]
    ) -> UUID | None:
        """The id behind a name (or an id). Without one the text is kept as a custom field."""
        given_id = _uuid(text)
        if given_id in lookup.targets:
            return given_id
        found = lookup.find(text)
        if isinstance(found, Match):
            if found.how == "close":
                message = f"Taken for {found.name!r}, which is the only name close to it."
                draft.warning(column.name, text, "close_match", message)
            return found.target
        thing = "account" if column.field == ACCOUNT else "member"
        code = "ambiguous_reference" if len(found.candidates) > 1 else "unknown_reference"
        sentence = f"No {thing} was found by this name.{_or_rather(found)}"
        if column.field == ACCOUNT and self._options.kind.ACCOUNT_REQUIRED:
            draft.error(column.name, text, code, sentence)
            return None
        key = column.name or thing
        draft.warning(column.name, text, code, f"{sentence} It is kept as custom field {key!r}.")
        draft.set_custom(key, text)
        return None

    def _take_field(self, draft: _Draft, column: Column, text: str) -> None:
        try:
            value = _parsed(column, text)
        except ValueError as fault:
            draft.error(column.name, text, "invalid_value", f"The value {fault}.")
            return
        if column.field == OCCURRED:
            draft.occurred_at = value
        else:
            draft.fields[column.field] = value

    def _timed(self, draft: _Draft, steps: list[TimelineStep]) -> tuple[TimelineStep, ...]:
        """The steps, none of them in the future; what there is to say of their times is said."""
        now = self._now()
        timed = []
        for step in steps:
            name = self._column_of.get(step.dated_by, "")
            if step.remark:
                draft.warning(name, "", *step.remark)
            at = step.at
            if at is not None and at > now:
                if at - now >= DAY:
                    draft.error(name, at.date().isoformat(), "in_future", "It has yet to happen.")
                at = now  # the day has begun somewhere on earth
            timed.append(step if at is step.at else replace(step, at=at))
        return tuple(timed)


def dedupe_key(row: ImportedRow, dedupe_by: Iterable[str]) -> DedupeKey | None:
    """What the row is told apart by; None where it has none of these fields."""
    parts = tuple(_key_part(row, name) for name in dedupe_by)
    return parts if any(parts) else None


def key_of_contact(values: FieldValues) -> DedupeKey:
    """What contacts of one account are told apart by: the e-mail, without one the name."""
    email = key_part(values.get("email"))
    return ("email", email) if email else ("name", key_part(values.get("name")))


def key_part(text: str | None) -> str:
    """A part of a key: rows are the same whatever the case and the spaces."""
    return " ".join((text or "").split()).casefold()


def _key_part(row: ImportedRow, name: str) -> str:
    if name == ACCOUNT:
        return str(row.account_id or "")
    if name.startswith(CUSTOM_PREFIX):
        return key_part(row.values.get(CUSTOM, {}).get(name[len(CUSTOM_PREFIX) :]))
    return key_part(row.values.get(name))


@dataclass
class _Draft:
    """A row on its way: what its cells have come to so far."""

    row: int
    fields: dict[str, Any] = field(default_factory=dict)
    account_id: UUID | None = None
    occurred_at: datetime | None = None
    findings: list[Finding] = field(default_factory=list)
    defaulted: set[str] = field(default_factory=set)
    contact: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def join_names(self) -> None:
        """First and last names become the name, where there is no whole one."""
        for fields, names in ((self.fields, NAME_PARTS), (self.contact, PARTS_OF_CONTACT)):
            parts = [self.parts[name] for name in names if name in self.parts]
            if parts and NAME not in fields:
                fields[NAME] = " ".join(parts)

    def given(self) -> set[str]:
        """The fields that there is something for; custom ones by `customFields.<key>`."""
        custom = {CUSTOM_PREFIX + key for key in self.fields.get(CUSTOM, {})}
        return {name for name in self.fields if name != CUSTOM} | custom

    def set_custom(self, key: str, text: str) -> None:
        """Custom fields keep the text as the file has it: `007` is not 7."""
        self.fields.setdefault(CUSTOM, {})[key] = text

    def error(self, column: str, value: str, code: str, message: str) -> None:
        self.findings.append(error(self.row, column, value, code, message))

    def warning(self, column: str, value: str, code: str, message: str) -> None:
        self.findings.append(warning(self.row, column, value, code, message))

    def corrected(self, column: Column, wrong: str, right: str) -> None:
        self.warning(column.name, wrong, "corrected", f"Corrected to {right!r}.")

    def is_fine(self, column: str) -> bool:
        """Whether no error was found in this column."""
        return all(each.column != column for each in self.findings if each.is_error)


def _parsed(column: Column, text: str) -> Any:
    if column.form is Form.DATE:
        return parse_date(text, column.dates)
    if column.form is Form.INSTANT:
        return parse_instant(text, column.dates)
    if column.form is Form.MONEY:
        return parse_money(text)
    if column.form is Form.CHOICE:
        return parse_choice(text, column.choices)
    return text


def _named(contact: Mapping[str, Any]) -> dict[str, Any]:
    """The contact; one that has an address and no name goes by the address."""
    return {NAME: contact["email"], **contact} if "email" in contact else dict(contact)


def _of_contact(fault: FieldError) -> FieldError:
    """The fault of a contact's field, by the name that it has in a row of accounts."""
    name = next((ours for ours, its in CONTACT_FIELDS.items() if its == fault.field), fault.field)
    return replace(fault, field=name)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _code(kind: str) -> str:
    return "missing_value" if kind == "missing" else "invalid_value"


def _or_rather(miss: Miss) -> str:
    names = " or ".join(repr(name) for name in miss.candidates)
    return f" It could be {names}." if names else ""
