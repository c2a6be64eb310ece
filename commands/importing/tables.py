"""CSV files as rows: every size bounded, and reading can go on where it stopped."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from commands.importing.findings import ImportFault, ImportRefused
from commands.importing.sniffing import (
    SNIFF_BYTES,
    encoding_of,
    mark_bytes,
    sniff_delimiter,
    sniff_encoding,
)

FILE_MAX_BYTES = 200_000_000
ROWS_MAX = 500_000
COLUMNS_MAX = 200
CELL_MAX_CHARS = 20_000
"""A longer cell keeps its row out. One of more than 131,072 (csv's own limit) ends the import."""
BUFFER_BYTES = 65_536


class SourceFile(Protocol):
    """Where a file's bytes are: a path, or the parts that were handed in."""

    @property
    def name(self) -> str:
        """What the file is called."""
        ...

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    def open(self, offset: int = 0) -> io.RawIOBase:
        """Its bytes from this one on. Raises OSError."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    @property
    def size_bytes(self) -> int:
        """Raises OSError."""
        return self.path.stat().st_size

    def open(self, offset: int = 0) -> io.RawIOBase:
        """Its bytes from this one on. Raises OSError."""
        file = io.FileIO(self.path)
        file.seek(offset)
        return file


@dataclass(frozen=True)
class FilePlace:
    """Where reading goes on: at this byte, after so many records (the header is one)."""

    byte: int = 0
    record: int = 0


START = FilePlace()


@dataclass(frozen=True)
class SourceRow:
    """A record of the table. `extra` holds cells beyond the last column."""

    number: int
    """As a spreadsheet counts: the header is row 1."""
    cells: Mapping[str, str]
    extra: tuple[str, ...] = ()
    end: FilePlace = START
    """Where the next one begins."""


@dataclass(frozen=True)
class SourceTable:
    """A CSV file that was looked at: how it is to be read, its columns, how many rows it has."""

    source: SourceFile
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    rows_total: int

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.source.name

    def rows(self, place: FilePlace = START) -> Iterator[SourceRow]:
        """The rows in order, empty lines left out. Raises `ImportRefused` where reading fails."""
        records = _records(self.source, self.encoding, self.delimiter, place)
        if place == START:
            next(records, None)  # the header
        for end, record in records:
            cells = dict(zip(self.columns, record, strict=False))
            extra = tuple(cell for cell in record[len(self.columns) :] if cell.strip())
            yield SourceRow(end.record, cells, extra, end)

    def values(self, column: str) -> Iterator[str]:
        """The cells of one column that hold something."""
        for row in self.rows():
            value = row.cells.get(column, "").strip()
            if value:
                yield value


def open_table(
    path: Path, *, encoding: str | None = None, delimiter: str | None = None
) -> SourceTable:
    """Look at a CSV file on this machine. Raises `ImportRefused`, as `read_table`."""
    return read_table(LocalFile(path), encoding=encoding, delimiter=delimiter)


def read_table(
    source: SourceFile, *, encoding: str | None = None, delimiter: str | None = None
) -> SourceTable:
    """Look at a CSV file whose first row names the columns.

    Encoding and delimiter are found out where they are not given. Raises `ImportRefused`, among
    others where the file is larger than `FILE_MAX_BYTES` or `ROWS_MAX`.
    """
    try:
        size_bytes = source.size_bytes
    except OSError as failure:
        message = f"{source.name} cannot be read: {failure.strerror}."
        raise ImportRefused(message, ImportFault.UNREADABLE) from None
    if size_bytes > FILE_MAX_BYTES:
        message = f"{source.name} has more than {FILE_MAX_BYTES:,} bytes: split it."
        raise ImportRefused(message, ImportFault.TOO_LARGE)
    encoding = encoding_of(encoding) if encoding else sniff_encoding(source.open)
    delimiter = delimiter or sniff_delimiter(_head(source, encoding))
    records = _records(source, encoding, delimiter, START)
    _, header = next(records, (START, []))
    columns = _columns(source.name, header)
    rows_total = 0
    for _ in records:
        rows_total += 1
        if rows_total > ROWS_MAX:
            message = f"{source.name} has more than {ROWS_MAX:,} rows: split it."
            raise ImportRefused(message, ImportFault.TOO_LARGE)
    return SourceTable(source, encoding, delimiter, columns, rows_total)


def _columns(name: str, header: list[str]) -> tuple[str, ...]:
    columns = tuple(column.strip() for column in header)
    while columns and not columns[-1]:
        columns = columns[:-1]
    if not columns:
        raise ImportRefused(
            f"{name} is empty: its first row must name the columns.", ImportFault.EMPTY
        )
    if len(columns) > COLUMNS_MAX:
        raise ImportRefused(f"{name} has more than {COLUMNS_MAX} columns.", ImportFault.TOO_LARGE)
    for number, column in enumerate(columns, start=1):
        if not column:
            message = f"Column {number} of {name} has no name in the first row."
            raise ImportRefused(message, ImportFault.NO_TABLE)
        if columns.count(column) > 1:
            message = f"{name} has more than one column {column!r}."
            raise ImportRefused(message, ImportFault.NO_TABLE)
    return columns


class _Lines:
    """Lines of a file as csv wants them, counting the bytes that were taken."""

    def __init__(self, file: io.TextIOWrapper, encoding: str, start: int) -> None:
        self._file = file
        self._encoding = encoding
        self.byte = start
        self.of_record: list[str] = []
        """The lines since this was last cleared."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.byte += len(line.encode(self._encoding))
        self.of_record.append(line)
        return line


def _records(
    source: SourceFile, encoding: str, delimiter: str, place: FilePlace
) -> Iterator[tuple[FilePlace, list[str]]]:
    """Records with something in them, each with where the next begins."""
    number = place.record
    try:
        start = place.byte or mark_bytes(_first_bytes(source), encoding)
        raw = io.BufferedReader(source.open(start), BUFFER_BYTES)
        with io.TextIOWrapper(raw, encoding=encoding, newline="") as file:
            lines, last = _Lines(file, encoding, start), list[str]()
            for record in csv.reader(lines, delimiter=delimiter):
                number += 1
                if any(cell.strip() for cell in record):
                    yield FilePlace(lines.byte, number), record
                last, lines.of_record = lines.of_record, []
        if not _is_closed(last, delimiter):
            message = f"{source.name} opens a quote in record {number:,} and never closes it."
            raise ImportRefused(message, ImportFault.NO_TABLE)
    except UnicodeError:
        message = f"{source.name} is not {encoding} after record {number:,}: name its encoding."
        raise ImportRefused(message, ImportFault.ENCODING) from None
    except csv.Error as failure:
        message = f"{source.name} cannot be read after record {number:,}: {failure}."
        raise ImportRefused(message, ImportFault.NO_TABLE) from None
    except OSError as failure:
        message = f"{source.name} cannot be read: {failure.strerror}."
        raise ImportRefused(message, ImportFault.UNREADABLE) from None


def _is_closed(lines: list[str], delimiter: str) -> bool:
    """Whether every quote of the record is closed; csv by itself takes the end for the quote's."""
    try:
        for _ in csv.reader(lines, delimiter=delimiter, strict=True):
            pass
    except csv.Error as fault:
        return "end of data" not in str(fault)
    return True


def _first_bytes(source: SourceFile) -> bytes:
    with source.open() as file:
        return file.read(4) or b""


def _head(source: SourceFile, encoding: str) -> str:
    """The beginning of the file; a character that is cut in two at its end is left out."""
    try:
        start = mark_bytes(_first_bytes(source), encoding)
        with io.BufferedReader(source.open(start)) as file:
            return file.read(SNIFF_BYTES).decode(encoding, "ignore")
    except OSError as failure:
        message = f"{source.name} cannot be read: {failure.strerror}."
        raise ImportRefused(message, ImportFault.UNREADABLE) from None
