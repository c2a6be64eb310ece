"""CSV files as rows: delimiter and encoding found out, every size bounded."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from commands.importing.findings import ImportRefused

FILE_MAX_BYTES = 200_000_000
ROWS_MAX = 500_000
COLUMNS_MAX = 200
CELL_MAX_CHARS = 20_000
"""A longer cell keeps its row out. One of more than 131,072 (csv's own limit) ends the import."""
SNIFF_CHARS = 65_536
DELIMITERS = ",;\t|"
ENCODING = "utf-8-sig"
FALLBACK_ENCODING = "cp1252"
"""What a file is read as that is not UTF-8: what spreadsheets on Windows write."""


@dataclass(frozen=True)
class Row:
    """A record of the table. `extra` holds cells beyond the last column."""

    number: int
    """As a spreadsheet counts: the header is row 1."""
    cells: Mapping[str, str]
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A CSV file that was looked at: how it is to be read, its columns, how many rows it has."""

    path: Path
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    rows_total: int

    def rows(self) -> Iterator[Row]:
        """The rows in order, empty lines left out. Raises `ImportRefused` where reading fails."""
        records = _records(self.path, self.encoding, self.delimiter)
        next(records, None)  # the header
        for number, record in records:
            cells = dict(zip(self.columns, record, strict=False))
            extra = tuple(cell for cell in record[len(self.columns) :] if cell.strip())
            yield Row(number, cells, extra)

    def values(self, column: str) -> Iterator[str]:
        """The cells of one column that hold something."""
        for row in self.rows():
            value = row.cells.get(column, "").strip()
            if value:
                yield value


def open_table(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> Table:
    """Look at a CSV file whose first row names the columns.

    Without `encoding` it is UTF-8, else `FALLBACK_ENCODING`. Raises `ImportRefused`, among others
    where the file is larger than `FILE_MAX_BYTES` or `ROWS_MAX`.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as failure:
        raise ImportRefused(f"{path} cannot be read: {failure.strerror}.") from None
    if size_bytes > FILE_MAX_BYTES:
        raise ImportRefused(f"{path} has more than {FILE_MAX_BYTES:,} bytes: split it.")
    encoding = encoding or _encoding_of(path)
    delimiter = delimiter or _delimiter_of(path, encoding)
    records = _records(path, encoding, delimiter)
    _, header = next(records, (1, []))
    columns = _columns(path, header)
    rows_total = sum(1 for _ in records)
    if rows_total > ROWS_MAX:
        raise ImportRefused(f"{path} has more than {ROWS_MAX:,} rows: split it.")
    return Table(path, encoding, delimiter, columns, rows_total)


def _columns(path: Path, header: list[str]) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in header)
    while columns and not columns[-1]:
        columns = columns[:-1]
    if not columns:
        raise ImportRefused(f"{path} is empty: its first row must name the columns.")
    if len(columns) > COLUMNS_MAX:
        raise ImportRefused(f"{path} has more than {COLUMNS_MAX} columns.")
    for number, name in enumerate(columns, start=1):
        if not name:
            raise ImportRefused(f"Column {number} of {path} has no name in the first row.")
        if columns.count(name) > 1:
            raise ImportRefused(f"{path} has more than one column {name!r}.")
    return columns


def _records(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Records with something in them, each with its number among all records."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            for number, record in enumerate(csv.reader(file, delimiter=delimiter), start=1):
                if any(cell.strip() for cell in record):
                    yield number, record
    except UnicodeDecodeError as failure:
        raise ImportRefused(
            f"{path} is not {encoding}: byte {failure.start:,} of a block cannot be read;"
            " name another --encoding."
        ) from None
    except (csv.Error, OSError, LookupError) as failure:
        raise ImportRefused(f"{path} cannot be read: {failure}.") from None


def _encoding_of(path: Path) -> str:
    try:
        with path.open(encoding=ENCODING, newline="") as file:
            while file.read(SNIFF_CHARS):
                pass
    except UnicodeDecodeError:
        return FALLBACK_ENCODING
    return ENCODING


def _delimiter_of(path: Path, encoding: str) -> str:
    """The delimiter that csv's Sniffer finds, a comma where it finds none.

    The rest of what it guesses (quotes above all) is not used: it is wrong too often.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            sample = file.read(SNIFF_CHARS)
            delimiter = csv.Sniffer().sniff(sample, DELIMITERS).delimiter
    except (csv.Error, UnicodeDecodeError, LookupError):
        return ","
    return delimiter if delimiter in sample.partition("\n")[0] else ","
