"""What an import says about a row: an error keeps the row out, a warning does not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

VALUE_SHOWN_MAX_CHARS = 200
"""A report shows no more of a cell than this."""


class ImportFault(StrEnum):
    """What is wrong with an import as a whole."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NO_TABLE = "no_table"
    ENCODING = "encoding"
    OPTIONS = "options"
    KIND = "kind"
    UNREADABLE = "unreadable"


class ImportRefused(Exception):
    """The import as a whole cannot be done; the message is a sentence for the user."""

    def __init__(self, message: str, fault: ImportFault = ImportFault.OPTIONS) -> None:
        super().__init__(message)
        self.fault = fault


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing to know about one cell. `row` counts as a spreadsheet does: the header is row 1."""

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


def error(row: int, column: str, value: str, code: str, message: str) -> Finding:
    """A finding that keeps the row out."""
    return Finding(row, Severity.ERROR, column, shown(value), code, message)


def warning(row: int, column: str, value: str, code: str, message: str) -> Finding:
    """A finding with which the row is imported all the same."""
    return Finding(row, Severity.WARNING, column, shown(value), code, message)


def shown(value: str) -> str:
    """The value, cut where it is too long for a report."""
    if len(value) <= VALUE_SHOWN_MAX_CHARS:
        return value
    return value[: VALUE_SHOWN_MAX_CHARS - 1] + "…"
