"""What an import reports: a refusal of the whole file, or an issue with one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from domain.shared.text import shortened, storable

VALUE_MAX_CHARS = 200
"""Maximum length of the cell's text in an issue."""
MESSAGE_MAX_CHARS = 1_000
"""Maximum length of the sentence in an issue."""


class ImportFault(StrEnum):
    """Why an import was refused as a whole."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NO_TABLE = "no_table"
    ENCODING = "encoding"
    OPTIONS = "options"
    KIND = "kind"
    UNREADABLE = "unreadable"


class ImportRefused(Exception):
    """The import was refused as a whole. The message is a sentence for the user."""

    def __init__(self, message: str, fault: ImportFault = ImportFault.OPTIONS) -> None:
        super().__init__(message)
        self.fault = fault


class Severity(StrEnum):
    """An error keeps the row out, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class ImportIssue:
    """A problem with one cell. `row` counts as a spreadsheet does: the header is row 1."""

    row: int
    severity: Severity
    column: str
    value: str
    code: str
    message: str

    @property
    def is_error(self) -> bool:
        """Whether it keeps the row out."""
        return self.severity is Severity.ERROR

    def as_json(self) -> dict[str, Any]:
        """The issue as it is stored and as the API returns it."""
        return {
            "row": self.row,
            "severity": self.severity.value,
            "column": self.column,
            "value": self.value,
            "code": self.code,
            "message": self.message,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ImportIssue:
        """The issue from its JSON."""
        return cls(**{**stored, "severity": Severity(stored["severity"])})


def error(row: int, column: str, value: str, code: str, message: str) -> ImportIssue:
    """An issue that keeps the row out."""
    return _issue(row, Severity.ERROR, column, value, code, message)


def warning(row: int, column: str, value: str, code: str, message: str) -> ImportIssue:
    """An issue that does not keep the row out."""
    return _issue(row, Severity.WARNING, column, value, code, message)


def shorten(text: str, max_chars: int = VALUE_MAX_CHARS) -> str:
    """The text, cut to this length, in a form that PostgreSQL can store."""
    return storable(shortened(text, max_chars))


def _issue(
    row: int, severity: Severity, column: str, value: str, code: str, message: str
) -> ImportIssue:
    return ImportIssue(
        row, severity, shorten(column), shorten(value), code, shorten(message, MESSAGE_MAX_CHARS)
    )
