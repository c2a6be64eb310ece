"""Plan a row: its cells become the values of a new or changed entity. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from commands.importing.cells import (
    Form,
    Lookup,
    Match,
    Miss,
    midnight,
    parse_cell,
    unescaped,
)
from commands.importing.files import CELL_MAX_CHARS, SourceRow
from commands.importing.issues import ImportIssue, error, warning
from commands.importing.mapping import (
    ACCOUNT,
    CONTACT_FIELDS,
    CONTACT_NAME_PARTS,
    CUSTOM_PREFIX,
    NAME,
    NAME_PARTS,
    OCCURRED,
    Column,
    ImportOptions,
)
from commands.links import MEMBER_FIELDS
from domain.contact import Contact
from domain.opportunity import OPEN_STAGES, Opportunity, Stage
from domain.shared.entity import Entity
from domain.shared.fields import CUSTOM, YEAR_MAX, YEAR_MIN, FieldValues
from domain.shared.refusals import FieldError, InvalidFields, OccurredTooEarly, Refusal

DAY = timedelta(days=1)
NAME_SETS_MAX = 1_000
NO_FIELDS: frozenset[str] = frozenset()

ENGAGED, CLOSED, STAGE = "engagedOn", "closedOn", "stage"
KNOWN_AT_CLOSE = frozenset({STAGE, CLOSED, "value"})
"""Fields of a closed deal that were not known before: how and when it ended, and its value."""


@dataclass(frozen=True)
class Directory:
    """Accounts by company and members by name, for references by name."""

    accounts: Lookup[UUID]
    members: Lookup[UUID]


@dataclass(frozen=True)
class TimelineStep:
    """Fields that were set at one time; None is the time of the import.

    `dated_by` is the field that gave the time, `doubt` the code and the sentence of a warning.
    """

    fields: Mapping[str, Any]
    at: datetime | None
    dated_by: str = OCCURRED
    doubt: tuple[str, str] | None = None


@dataclass(frozen=True)
class PlannedRow:
    """What a row records: its first step creates an entity, each later one revises it."""

    number: int
    kind: type[Entity]
    account_id: UUID | None
    steps: tuple[TimelineStep, ...]
    issues: tuple[ImportIssue, ...]
    """An error keeps the row out."""
    columns: Mapping[str, str]
    """Columns by field, to report which cell was refused."""
    cells: Mapping[str, str]
    values: FieldValues = field(default_factory=dict)
    """The fields of all steps in canonical form."""
    given: frozenset[str] = frozenset()
    """Fields for which the row has a value; the others have defaults, for a new entity only."""
    contact: FieldValues | None = None
    """Values of the account's contact in the same row, in canonical form."""
    contact_given: frozenset[str] = frozenset()
    """Fields of the contact for which the row has a value."""

    @property
    def is_valid(self) -> bool:
        """Whether no issue so far keeps the row out."""
        return not self.issues or not any(each.is_error for each in self.issues)

    def create(self, entity_id: UUID, workspace_id: UUID, now: datetime) -> Entity:
        """Return a new entity whose pending events are this row's. Raises `Refusal`."""
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
        """Set the fields for which the row has a value. Raises `Refusal`."""
        values = {name: value for name, value in self.values.items() if name in self.given}
        custom = {
            **entity.values.get(CUSTOM, {}),
            **{
                key: value
                for key, value in self.values.get(CUSTOM, {}).items()
                if CUSTOM_PREFIX + key in self.given
            },
        }
        if custom:
            values[CUSTOM] = custom
        entity.revise({**entity.values, **values}, at=max(now, entity.modified_on))

    def revise_contact(self, contact: Entity, now: datetime) -> None:
        """Set the contact's fields for which the row has a value. Raises `Refusal`."""
        contact.revise(self.contact_values(contact), at=max(now, contact.modified_on))

    def contact_values(self, contact: Entity) -> FieldValues:
        """The contact's values after `revise_contact`."""
        values = self.contact or {}
        return {**contact.values, **{name: values[name] for name in self.contact_given}}

    def issues_of(self, refusal: Refusal) -> list[ImportIssue]:
        """The refusal as issues, one for each invalid cell."""
        if isinstance(refusal, InvalidFields):
            return [
                self.error(
                    each.field,
                    "missing_value" if each.kind == "missing" else "invalid_value",
                    each.message,
                )
                for each in refusal.errors
            ]
        if isinstance(refusal, OccurredTooEarly):
            message = "It cannot have ended before it began."
            return [self.error(CLOSED, "occurred_too_early", message)]
        return [self.error("", "refused", str(refusal))]

    def error(self, name: str, code: str, message: str) -> ImportIssue:
        """An error in the cell that became this field."""
        column = self.columns.get(name, "" if name == "body" else name)
        return error(self.number, column, self.cells.get(column, ""), code, message)


class RowPlanner:
    """Plans the rows of one import. Not thread-safe, as the lookups cache their answers."""

    def __init__(
        self,
        options: ImportOptions,
        columns: Iterable[Column],
        directory: Directory,
        clock: Callable[[], datetime],
    ) -> None:
        self._options = options
        self._corrected_columns = {*options.corrections, *options.known}
        self._columns = [(each, self._reader(each), self._is_plain(each)) for each in columns]
        self.directory = directory
        self._clock = clock
        self._column_of = {column.field: column.name for column, _, _ in self._columns}

    def plan(self, row: SourceRow) -> PlannedRow:
        """Return what the row records, with all issues of its cells."""
        draft = _Draft(row.number)
        if row.extra:
            draft.error("", row.extra[0], "too_many_cells", "The row has more cells than columns.")
        for column, read, is_plain in self._columns:
            text = unescaped(row.cells.get(column.name, ""))
            if not is_plain or len(text) > CELL_MAX_CHARS:
                self._read_cell(draft, column, text, read)
            elif text:
                read(draft, column, text)
        kind = self._options.kind
        account_column = self._column_of.get(ACCOUNT, "")
        if kind.ACCOUNT_REQUIRED and draft.account_id is None and draft.is_valid(account_column):
            message = f"A {kind.KIND} belongs to an account."
            draft.error(account_column, "", "no_account", message)
        draft.join_names()
        steps = self._check_times(draft, _steps_of(kind, draft.fields, draft.occurred_at))
        return self._validate(row, draft, steps)

    def _read_cell(self, draft: _Draft, column: Column, text: str, read: _Reader) -> None:
        if len(text) > CELL_MAX_CHARS:
            message = f"The cell has more than {CELL_MAX_CHARS:,} characters."
            draft.error(column.name, text, "cell_too_long", message)
            return
        if not text and column.default:
            draft.defaulted.add(column.field)
            text = column.default
        if column.name in self._corrected_columns:
            text = self._correct(draft, column, text)
        if text or column.field == ACCOUNT:
            read(draft, column, text)

    def _reader(self, column: Column) -> _Reader:
        """The function that reads the texts of this column into a draft."""
        name = column.field
        if name == ACCOUNT:
            return self._read_account
        if name in MEMBER_FIELDS:
            return self._read_member
        if name.startswith(CUSTOM_PREFIX):
            return _custom_reader(name[len(CUSTOM_PREFIX) :])
        if name in CONTACT_FIELDS:
            return _read_contact
        if name in NAME_PARTS or name in CONTACT_NAME_PARTS:
            return _read_name_part
        return _read_text if column.form is Form.TEXT else self._read_value

    def _is_plain(self, column: Column) -> bool:
        """Whether a text of the column is read as it is, and an empty one is not."""
        is_corrected = column.name in self._corrected_columns
        return not (column.default or is_corrected or column.field == ACCOUNT)

    def _read_member(self, draft: _Draft, column: Column, text: str) -> None:
        member_id = self._find_reference(draft, column, text, self.directory.members)
        if member_id is not None:
            draft.fields[column.field] = str(member_id)

    def _read_value(self, draft: _Draft, column: Column, text: str) -> None:
        try:
            value = parse_cell(text, column.form, column.dates, column.choices)
        except ValueError as fault:
            draft.error(column.name, text, "invalid_value", f"The value {fault}.")
            return
        if column.field == OCCURRED:
            if YEAR_MIN <= value.year <= YEAR_MAX:
                draft.occurred_at = value
            else:
                message = f"The year must lie between {YEAR_MIN} and {YEAR_MAX}."
                draft.error(column.name, text, "invalid_value", message)
        else:
            draft.fields[column.field] = value

    def _correct(self, draft: _Draft, column: Column, text: str) -> str:
        """The text after explicit corrections and the list of known values."""
        right = self._options.corrections.get(column.name, {}).get(text)
        if right is not None:
            draft.warning(column.name, text, "corrected", f"Corrected to {right!r}.")
            text = right
        known = self._options.known.get(column.name)
        if known is None or not text:
            return text
        found = known.find(text)
        if isinstance(found, Miss):
            message = f"This value is not known.{_candidates(found)}"
            draft.warning(column.name, text, "unknown_value", message)
            return text
        if found.name != text:
            draft.warning(column.name, text, "corrected", f"Corrected to {found.name!r}.")
        return found.name

    def _read_account(self, draft: _Draft, column: Column, text: str) -> None:
        if text:
            draft.account_id = self._find_reference(draft, column, text, self.directory.accounts)
        elif not self._options.kind.ACCOUNT_REQUIRED:
            message = f"The {self._options.kind.KIND} has no account."
            draft.warning(column.name, "", "no_account", message)

    def _find_reference(
        self, draft: _Draft, column: Column, text: str, lookup: Lookup[UUID]
    ) -> UUID | None:
        """The entity of this name or id. If there is none, the text becomes a custom field."""
        given_id = _uuid(text)
        if given_id in lookup.targets:
            return given_id
        found = lookup.find(text)
        if isinstance(found, Match):
            if found.how == "close":
                message = f"Read as {found.name!r}, the only name close to it."
                draft.warning(column.name, text, "close_match", message)
            return found.target
        thing = "account" if column.field == ACCOUNT else "member"
        code = "ambiguous_reference" if len(found.candidates) > 1 else "unknown_reference"
        sentence = f"No {thing} was found by this name.{_candidates(found)}"
        if column.field == ACCOUNT and self._options.kind.ACCOUNT_REQUIRED:
            draft.error(column.name, text, code, sentence)
            return None
        key = column.name or thing
        draft.warning(column.name, text, code, f"{sentence} It is kept as custom field {key!r}.")
        draft.set_custom(key, text)
        return None

    def _check_times(self, draft: _Draft, steps: list[TimelineStep]) -> tuple[TimelineStep, ...]:
        """The steps, none of them in the future. Doubtful and future times become issues."""
        if all(step.at is None and step.doubt is None for step in steps):
            return tuple(steps)
        now = self._clock()
        timed = []
        for step in steps:
            name = self._column_of.get(step.dated_by, "")
            if step.doubt:
                draft.warning(name, "", *step.doubt)
            at = step.at
            if at is not None and at > now:
                if at - now >= DAY:
                    draft.error(name, at.date().isoformat(), "in_future", "It lies in the future.")
                at = now  # that day has begun in some time zone
            timed.append(step if at is step.at else replace(step, at=at))
        return tuple(timed)

    def _validate(
        self, row: SourceRow, draft: _Draft, steps: tuple[TimelineStep, ...]
    ) -> PlannedRow:
        """The row with its values in canonical form, or with issues for those that are invalid."""
        kind, values, contact = self._options.kind, FieldValues(), None
        refused: list[InvalidFields] = []
        if not any(each.is_error for each in draft.issues):
            fields = steps[0].fields
            if len(steps) > 1:
                fields = {name: value for step in steps for name, value in step.fields.items()}
            try:
                values = kind.FIELDS.prevalidated(fields)
            except InvalidFields as invalid:
                if self._may_lack(invalid):
                    values = kind.FIELDS.canonical(fields)
                else:
                    refused.append(invalid)
            if draft.contact:
                try:
                    contact = Contact.FIELDS.prevalidated(draft.named_contact())
                except InvalidFields as invalid:
                    refused.append(InvalidFields(list(map(_as_row_error, invalid.errors))))
        if len(steps) == 1 and values:
            first = steps[0]
            steps = (TimelineStep(values, first.at, first.dated_by, first.doubt),)
        planned = PlannedRow(
            number=row.number,
            kind=kind,
            account_id=draft.account_id,
            steps=steps,
            issues=tuple(draft.issues),
            columns=self._column_of,
            cells=row.cells,
            values=values,
            given=draft.given(),
            contact=contact,
            contact_given=_named(tuple(draft.contact)) if contact else NO_FIELDS,
        )
        if refused:
            issues = (issue for each in refused for issue in planned.issues_of(each))
            planned = replace(planned, issues=(*planned.issues, *issues))
        return planned

    def _may_lack(self, invalid: InvalidFields) -> bool:
        """Whether only fields are missing that an existing entity with the same key may have."""
        key = self._options.dedupe_by
        return bool(key) and all(
            each.kind == "missing" and each.field not in key for each in invalid.errors
        )


@dataclass
class _Draft:
    """A row while its cells are read."""

    row: int
    fields: dict[str, Any] = field(default_factory=dict)
    account_id: UUID | None = None
    occurred_at: datetime | None = None
    issues: list[ImportIssue] = field(default_factory=list)
    defaulted: set[str] = field(default_factory=set)
    contact: dict[str, Any] = field(default_factory=dict)
    name_parts: dict[str, str] = field(default_factory=dict)

    def join_names(self) -> None:
        """Join first and last name, unless there is a whole name."""
        for fields, names in ((self.fields, NAME_PARTS), (self.contact, CONTACT_NAME_PARTS)):
            parts = [self.name_parts[name] for name in names if name in self.name_parts]
            if parts and NAME not in fields:
                fields[NAME] = " ".join(parts)

    def given(self) -> frozenset[str]:
        """The fields for which the row has a value; custom ones as `customFields.<key>`."""
        custom = tuple(self.fields.get(CUSTOM, ()))
        return _named(tuple(self.fields), custom, frozenset(self.defaulted))

    def named_contact(self) -> dict[str, Any]:
        """The contact's fields; without a name, its e-mail address is the name."""
        email = self.contact.get("email")
        return {NAME: email, **self.contact} if email else self.contact

    def set_custom(self, key: str, text: str) -> None:
        """Set a custom field to the text of the file as it is: `007` is not 7."""
        self.fields.setdefault(CUSTOM, {})[key] = text

    def error(self, column: str, value: str, code: str, message: str) -> None:
        self.issues.append(error(self.row, column, value, code, message))

    def warning(self, column: str, value: str, code: str, message: str) -> None:
        self.issues.append(warning(self.row, column, value, code, message))

    def is_valid(self, column: str) -> bool:
        """Whether this column has no error."""
        return all(each.column != column for each in self.issues if each.is_error)


@lru_cache(NAME_SETS_MAX)
def _named(
    fields: tuple[str, ...], custom: tuple[str, ...] = (), without: frozenset[str] = NO_FIELDS
) -> frozenset[str]:
    """These names, the custom ones with their prefix. Rows with the same names share the set, so
    that it is passed from process to process once for a batch.
    """
    names = {name for name in fields if name != CUSTOM}
    names |= {CUSTOM_PREFIX + key for key in custom}
    return frozenset(names - without)


_Reader = Callable[[_Draft, Column, str], None]
"""Reads the text of a cell into a draft."""


def _read_text(draft: _Draft, column: Column, text: str) -> None:
    draft.fields[column.field] = text


def _custom_reader(key: str) -> _Reader:
    def read_custom(draft: _Draft, column: Column, text: str) -> None:
        draft.fields.setdefault(CUSTOM, {})[key] = text

    return read_custom


def _read_contact(draft: _Draft, column: Column, text: str) -> None:
    draft.contact[CONTACT_FIELDS[column.field]] = text


def _read_name_part(draft: _Draft, column: Column, text: str) -> None:
    draft.name_parts[column.field] = text


def _steps_of(
    kind: type[Entity], fields: Mapping[str, Any], occurred_at: datetime | None
) -> list[TimelineStep]:
    """The steps in which an entity of this kind got these fields: a closed deal has two.

    A deal is created when it was engaged, and won or lost when it was closed (midnight in UTC).
    """
    if kind is not Opportunity:
        return [TimelineStep(fields, occurred_at)]
    engaged, closed = fields.get(ENGAGED), fields.get(CLOSED)
    start = occurred_at or _start_of(engaged)
    open_stage = Stage.ENGAGING if engaged else Stage.PROSPECTING
    stage = fields.get(STAGE, open_stage)
    if stage in OPEN_STAGES:
        return [TimelineStep({**fields, STAGE: stage}, start, ENGAGED)]
    first = {name: value for name, value in fields.items() if name not in KNOWN_AT_CLOSE}
    last = {name: value for name, value in fields.items() if name in KNOWN_AT_CLOSE}
    no_start = (
        "no_engage_date",
        "The deal is closed and has no engage date: its close date is used.",
    )
    no_end = ("no_close_date", "The deal is closed and has no close date: today is used.")
    return [
        TimelineStep(
            {**first, STAGE: open_stage},
            start or _start_of(closed),
            ENGAGED,
            None if start else no_start,
        ),
        TimelineStep(last, _start_of(closed), CLOSED, None if closed else no_end),
    ]


def _start_of(day: date | None) -> datetime | None:
    return midnight(day) if day else None


def _as_row_error(fault: FieldError) -> FieldError:
    """The error with the name that the contact's field has in a row of accounts."""
    name = next((ours for ours, its in CONTACT_FIELDS.items() if its == fault.field), fault.field)
    return replace(fault, field=name)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _candidates(miss: Miss) -> str:
    names = " or ".join(repr(name) for name in miss.candidates)
    return f" It could be {names}." if names else ""
