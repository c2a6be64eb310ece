"""Read CSV files: detect encoding and delimiter, limit every size, resume at any row.

Only encodings are read in which a line can be decoded without the lines before it: those that shift
between states (ISO-2022, UTF-7) are refused. See docs/adr/0011-import.md.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from charset_normalizer import from_bytes

from commands.importing.issues import ImportFault, ImportRefused

FILE_MAX_BYTES = 200_000_000
ROWS_MAX = 500_000
COLUMNS_MAX = 200
LINES_MAX = 2_000_000
"""Maximum number of lines, empty ones and those within quotes included."""
ROW_MAX_CHARS = 500_000
"""Maximum length of a row, which may span several lines."""
COLUMN_NAME_MAX_CHARS = 200
CELL_MAX_CHARS = 20_000
"""A longer cell keeps its row out. More than 131,072 characters (csv's limit) end the import."""
PART_BYTES = 262_144
"""Length of every part of an uploaded file except the last."""
BUFFER_BYTES = 65_536
SNIFF_BYTES = 65_536
SNIFF_RECORDS = 100
"""Number of records that are examined to detect the delimiter."""
BATCH_BYTES = 4_000_000
"""Rows of more than this length are not held in memory together, beyond the last of them."""
READ_BYTES = 262_144

DELIMITERS = ",;\t|"
UTF8 = "utf-8"
WESTERN = ("cp1252", "cp1250", "latin-1")
"""Encodings tried, in this order, for a file that is neither UTF-8 nor of a non-Latin script.
cp1252 is what Windows spreadsheets write in Western Europe; latin-1 decodes every byte."""
OTHER_SCRIPTS = frozenset(
    {
        *("cp1251", "koi8-r", "iso8859-5", "cp866", "mac-cyrillic"),
        *("cp1253", "iso8859-7", "cp1255", "iso8859-8", "cp1256", "iso8859-6", "cp874", "tis-620"),
        *("shift_jis", "cp932", "euc_jp", "gb18030", "gbk", "gb2312", "big5", "cp949", "euc_kr"),
    }
)
"""Encodings of scripts that differ so much that a guess is reliable."""
LATIN = frozenset(
    {
        *("ascii", "utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "mac-roman"),
        *("cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "cp437", "cp850", "cp852"),
        *(f"iso8859-{number}" for number in (1, 2, 3, 4, 9, 10, 13, 14, 15, 16)),
    }
)

# The longer marks first: UTF-32's begins like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BY_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": UTF8}
_OTHER_CODECS = frozenset(codecs.lookup(name).name for name in OTHER_SCRIPTS)
_CODECS = _OTHER_CODECS | {codecs.lookup(name).name for name in LATIN}


class SourceFile(Protocol):
    """Where the bytes of a file come from: a path, or the parts of an upload."""

    @property
    def name(self) -> str:
        """The name of the file."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its length. Raises OSError."""
        ...

    def open(self, offset: int = 0) -> io.RawIOBase:
        """Its bytes from this offset on. Raises OSError."""
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
        """Its length. Raises OSError."""
        return self.path.stat().st_size

    def open(self, offset: int = 0) -> io.RawIOBase:
        """Its bytes from this offset on. Raises OSError."""
        file = io.FileIO(self.path)
        file.seek(offset)
        return file


@dataclass(frozen=True)
class UploadedFile:
    """A file that was uploaded in parts, read one part at a time."""

    name: str
    size_bytes: int
    read_part: Callable[[int], bytes]

    def open(self, offset: int = 0) -> io.RawIOBase:
        """Its bytes from this offset on."""
        return _Parts(self.read_part, offset)


class _Parts(io.RawIOBase):
    def __init__(self, read_part: Callable[[int], bytes], offset: int) -> None:
        super().__init__()
        self._read_part = read_part
        self._number, self._skip = divmod(offset, PART_BYTES)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            self._rest = memoryview(self._read_part(self._number))[self._skip :]
            self._number, self._skip = self._number + 1, 0
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


@dataclass(frozen=True)
class FilePlace:
    """A place between two records: the byte, and the number of records before (header included)."""

    byte: int = 0
    record: int = 0


START = FilePlace()


@dataclass(frozen=True)
class SourceRow:
    """A record of the table. `extra` holds the cells beyond the last column."""

    number: int
    """As a spreadsheet counts: the header is row 1."""
    cells: Mapping[str, str]
    extra: tuple[str, ...] = ()
    end: FilePlace = START
    """Where the next row begins."""


@dataclass(frozen=True)
class SourceTable:
    """A CSV file, how to read it, its columns and its number of rows."""

    source: SourceFile
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    rows_total: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.source.name

    def rows(self, place: FilePlace = START) -> Iterator[SourceRow]:
        """The rows in order, without empty lines. Raises `ImportRefused` if reading fails."""
        records = _records(self.source, self.encoding, self.delimiter, place)
        if place == START:
            next(records, None)  # the header
        for end, record in records:
            cells = dict(zip(self.columns, record, strict=False))
            extra = tuple(cell for cell in record[len(self.columns) :] if cell.strip())
            yield SourceRow(end.record, cells, extra, end)

    def values(self, column: str) -> Iterator[str]:
        """The non-empty cells of one column."""
        for row in self.rows():
            value = row.cells.get(column, "").strip()
            if value:
                yield value


def open_table(
    path: Path, *, encoding: str | None = None, delimiter: str | None = None
) -> SourceTable:
    """Inspect a CSV file on this machine; see `read_table`."""
    return read_table(LocalFile(path), encoding=encoding, delimiter=delimiter)


def read_table(
    source: SourceFile, *, encoding: str | None = None, delimiter: str | None = None
) -> SourceTable:
    """Inspect a CSV file whose first row names the columns, and count its rows.

    Encoding and delimiter are detected unless given. Raises `ImportRefused`, also for a file of
    more than `FILE_MAX_BYTES`, `ROWS_MAX` or `LINES_MAX`, or with a row of more than
    `ROW_MAX_CHARS`.
    """
    try:
        size_bytes = source.size_bytes
        if size_bytes > FILE_MAX_BYTES:
            message = f"{source.name} has more than {FILE_MAX_BYTES:,} bytes: split it."
            raise ImportRefused(message, ImportFault.TOO_LARGE)
        encoding = _codec(encoding) if encoding else _detect_encoding(source.open)
        delimiter = delimiter or _detect_delimiter(_head(source, encoding))
    except OSError as failure:
        raise _unreadable(source, failure) from None
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
    named = max((n for n, column in enumerate(columns, start=1) if column), default=0)
    columns = columns[:named]
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
        if len(column) > COLUMN_NAME_MAX_CHARS or not column.isprintable():
            message = (
                f"The name of column {number} of {name} has more than {COLUMN_NAME_MAX_CHARS}"
                " characters, or a control character."
            )
            raise ImportRefused(message, ImportFault.NO_TABLE)
        if columns.count(column) > 1:
            message = f"{name} has more than one column {column!r}."
            raise ImportRefused(message, ImportFault.NO_TABLE)
    return columns


def take_rows(rows: Iterator[SourceRow], start: FilePlace, limit: int) -> Iterator[SourceRow]:
    """At most `limit` of the rows from this place on, fewer if they exceed `BATCH_BYTES`."""
    for row in islice(rows, limit):
        yield row
        if row.end.byte - start.byte >= BATCH_BYTES:
            return


class _Lines:
    """The lines of a file for csv.reader, within the limits; counts the bytes that it took."""

    def __init__(self, file: io.TextIOWrapper, name: str, encoding: str, start: int) -> None:
        self._file = file
        self._name = name
        self._encoding = encoding
        self._count = 0
        self._chars = 0
        self.byte = start
        self.of_record: list[str] = []
        """The lines of the record that is being read."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(ROW_MAX_CHARS + 1 - self._chars)
        if not line:
            raise StopIteration
        self._count += 1
        self._chars += len(line)
        if self._count > LINES_MAX:
            message = f"{self._name} has more than {LINES_MAX:,} lines: split it."
            raise ImportRefused(message, ImportFault.TOO_LARGE)
        if self._chars > ROW_MAX_CHARS:
            message = f"A row of {self._name} has more than {ROW_MAX_CHARS:,} characters."
            raise ImportRefused(message, ImportFault.TOO_LARGE)
        self.byte += len(line.encode(self._encoding))
        self.of_record.append(line)
        return line

    def end_record(self) -> list[str]:
        """Return the lines of the record, which is complete."""
        lines, self.of_record, self._chars = self.of_record, [], 0
        return lines


def _records(
    source: SourceFile, encoding: str, delimiter: str, place: FilePlace
) -> Iterator[tuple[FilePlace, list[str]]]:
    """The non-empty records from this place on, each with the place where the next one begins."""
    number = place.record
    try:
        start = place.byte or _mark_bytes(source, encoding)
        raw = io.BufferedReader(source.open(start), BUFFER_BYTES)
        with io.TextIOWrapper(raw, encoding=encoding, newline="") as file:
            lines, last = _Lines(file, source.name, encoding, start), list[str]()
            for record in csv.reader(lines, delimiter=delimiter):
                number += 1
                if any(map(str.strip, record)):
                    yield FilePlace(lines.byte, number), record
                last = lines.end_record()
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
        raise _unreadable(source, failure) from None


def _is_closed(lines: list[str], delimiter: str) -> bool:
    """Whether every quote of the record is closed; without `strict`, csv accepts an open one."""
    try:
        for _ in csv.reader(lines, delimiter=delimiter, strict=True):
            pass
    except csv.Error as fault:
        return "end of data" not in str(fault)
    return True


def _unreadable(source: SourceFile, failure: OSError) -> ImportRefused:
    message = f"{source.name} cannot be read: {failure.strerror}."
    return ImportRefused(message, ImportFault.UNREADABLE)


def _mark_bytes(source: SourceFile, encoding: str) -> int:
    """Length of the byte order mark with which a file in this encoding begins. Raises OSError."""
    with source.open() as file:
        first = file.read(4) or b""
    for mark, marked in _MARKS:
        if marked == encoding and first.startswith(mark):
            return len(mark)
    return 0


def _head(source: SourceFile, encoding: str) -> str:
    """The beginning of the file, without a character that is cut off. Raises OSError."""
    with io.BufferedReader(source.open(_mark_bytes(source, encoding))) as file:
        return file.read(SNIFF_BYTES).decode(encoding, "ignore")


def _codec(name: str) -> str:
    """The codec of a named encoding. Raises `ImportRefused`."""
    try:
        found = codecs.lookup(_BY_MARK.get(name.lower(), name)).name
    except LookupError:
        found = ""
    if found not in _CODECS:
        raise ImportRefused(f"The encoding {name!r} is not supported.", ImportFault.ENCODING)
    return found


def _detect_encoding(open_: Callable[[int], io.RawIOBase]) -> str:
    """The encoding: by byte order mark or zero bytes, else UTF-8 if all is valid, else by script.

    `open_` opens the file at an offset. charset-normalizer recognises scripts other than Latin; it
    confuses Western and Eastern European, so Latin is always one of `WESTERN`. Raises OSError.
    """
    with open_(0) as file:
        first = file.read(4) or b""
    for mark, encoding in _MARKS:
        if first.startswith(mark):
            return encoding
    if first[1::2] == b"\0\0":
        return "utf-16-le"
    if first[0::2] == b"\0\0":
        return "utf-16-be"
    broken_at = _first_not_utf8(open_)
    if broken_at is None:
        return UTF8
    with io.BufferedReader(open_(max(0, broken_at - SNIFF_BYTES // 2))) as file:
        sample = file.read(SNIFF_BYTES)
    best = from_bytes(sample).best()
    found = codecs.lookup(best.encoding).name if best else ""
    return (
        found if found in _OTHER_CODECS else next(each for each in WESTERN if _fits(sample, each))
    )


def _first_not_utf8(open_: Callable[[int], io.RawIOBase]) -> int | None:
    """The offset of the first bytes that are not UTF-8; None if all are."""
    decoder = codecs.getincrementaldecoder(UTF8)()
    done = 0
    with open_(0) as file:
        while part := file.read(READ_BYTES):
            try:
                decoder.decode(part)
            except UnicodeDecodeError as failure:
                return done + failure.start
            done += len(part)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return done
    return None


def _fits(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _detect_delimiter(sample: str) -> str:
    """The delimiter by which most records have as many cells as the first, by default a comma.

    csv's Sniffer is not used: the time of its regular expressions grows with the square of the
    sample's length and more.
    """
    return max(DELIMITERS, key=partial(_fitting_records, sample))


def _fitting_records(sample: str, delimiter: str) -> tuple[int, int]:
    """How many records have as many cells as the first, and how many cells that has."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
    try:
        widths = [len(record) for record in islice(reader, SNIFF_RECORDS) if record]
    except csv.Error:
        return 0, 0
    if not widths or widths[0] == 1:
        return 0, 0
    return widths.count(widths[0]), widths[0]
