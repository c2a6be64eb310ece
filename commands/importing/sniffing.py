"""Finding out how a CSV file is written: its encoding and its delimiter (docs/adr/0011-import.md).

Only encodings are read in which a character can be found again from any line on: those that shift
from one state to another (ISO-2022, UTF-7) are refused.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable

from charset_normalizer import from_bytes

from commands.importing.findings import ImportFault, ImportRefused

SNIFF_BYTES = 65_536
READ_BYTES = 262_144
DELIMITERS = ",;\t|"
UTF8 = "utf-8"
WESTERN = ("cp1252", "cp1250", "latin-1")
"""What a file is read as that is neither UTF-8 nor of another script: what spreadsheets on Windows
write in Western Europe. The next one where a byte has no meaning in it; the last knows them all."""
OTHER_SCRIPTS = frozenset(
    {
        *("cp1251", "koi8-r", "iso8859-5", "cp866", "mac-cyrillic"),
        *("cp1253", "iso8859-7", "cp1255", "iso8859-8", "cp1256", "iso8859-6", "cp874", "tis-620"),
        *("shift_jis", "cp932", "euc_jp", "gb18030", "gbk", "gb2312", "big5", "cp949", "euc_kr"),
    }
)
"""Encodings of scripts whose letters differ so much that a guess can be believed."""
LATIN = frozenset(
    {
        *("ascii", "utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "mac-roman"),
        *("cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "cp437", "cp850", "cp852"),
        *(f"iso8859-{number}" for number in (1, 2, 3, 4, 9, 10, 13, 14, 15, 16)),
    }
)

# The longer ones first: UTF-32's mark begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BY_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": UTF8}
_KNOWN = frozenset(codecs.lookup(name).name for name in OTHER_SCRIPTS | LATIN)


def encoding_of(name: str) -> str:
    """The encoding that somebody named, by the name of its codec. Raises `ImportRefused`."""
    try:
        found = codecs.lookup(_BY_MARK.get(name.lower(), name)).name
    except LookupError:
        found = ""
    if found not in _KNOWN:
        raise ImportRefused(f"{name!r} is no encoding that can be read here.", ImportFault.ENCODING)
    return found


def sniff_encoding(open_: Callable[[int], io.RawIOBase]) -> str:
    """How a file is encoded: by its mark, else UTF-8 if all of it is, else by its script.

    `open_` opens it at a byte. Scripts other than Latin are told by charset-normalizer; it takes
    Western European for Eastern and the reverse, so Latin is always `WESTERN`. Raises OSError.
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
        return _of_script(file.read(SNIFF_BYTES))


def mark_bytes(first: bytes, encoding: str) -> int:
    """How long the byte order mark is with which a file in this encoding begins."""
    for mark, marked in _MARKS:
        if marked == encoding and first.startswith(mark):
            return len(mark)
    return 0


def sniff_delimiter(sample: str) -> str:
    """The delimiter that csv's Sniffer finds, a comma where it finds none.

    The rest of what it guesses (quotes above all) is not used: it is wrong too often.
    """
    try:
        delimiter = csv.Sniffer().sniff(sample, DELIMITERS).delimiter
    except csv.Error:
        return ","
    return delimiter if delimiter in sample.partition("\n")[0] else ","


def _first_not_utf8(open_: Callable[[int], io.RawIOBase]) -> int | None:
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


def _of_script(sample: bytes) -> str:
    best = from_bytes(sample).best()
    found = codecs.lookup(best.encoding).name if best else ""
    if found in {codecs.lookup(name).name for name in OTHER_SCRIPTS}:
        return found
    return next(each for each in WESTERN if _is_readable(sample, each))


def _is_readable(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
