"""What is kept of an import beside the log: its files in parts, its options, its failed rows.

Within transactions of the log, and so in one workspace. The tables are in
eventlog/sql/0007_imports.sql.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from commands.importing.cells import DateOrder
from commands.importing.findings import Finding
from commands.importing.lookup import Lookup
from commands.importing.options import ImportOptions, Mode, kind_of
from eventlog.connections import Connection

PART_BYTES = 262_144
"""Length of every part of a file but the last."""
FINDINGS_MAX = 200_000
"""So many findings of an import are kept; more are counted only."""

INSERT = """
INSERT INTO imports (workspace_id, id, kind, file_name, options) VALUES (%s, %s, %s, %s, '{}')
"""
INSERT_FILE = """
INSERT INTO import_files (workspace_id, import_id, round)
SELECT %(workspace)s, %(import)s, coalesce(max(round), 0) + 1
  FROM import_files WHERE workspace_id = %(workspace)s AND import_id = %(import)s
RETURNING round
"""
INSERT_PART = """
INSERT INTO import_parts (workspace_id, import_id, round, number, content)
VALUES (%s, %s, %s, %s, %s)
"""
SELECT_PART = """
SELECT content FROM import_parts
 WHERE workspace_id = %s AND import_id = %s AND round = %s AND number = %s
"""
SELECT = """
SELECT id, kind, file_name, options, orders, columns, version, handed_in_at,
       (SELECT count(*) FROM import_failures AS f
         WHERE f.workspace_id = i.workspace_id AND f.import_id = i.id)
  FROM imports AS i WHERE workspace_id = %s AND columns IS NOT NULL AND {which}
 ORDER BY handed_in_at DESC, id DESC LIMIT %s
"""
SELECT_FILES = """
SELECT import_id, round, size_bytes, encoding, delimiter, columns, rows, job_id
  FROM import_files WHERE workspace_id = %s AND import_id = ANY(%s) ORDER BY import_id, round
"""
HOLD = "SELECT FROM imports WHERE workspace_id = %s AND id = %s FOR UPDATE"
SET_OPTIONS = """
UPDATE imports SET options = %s, columns = %s, version = version + 1
 WHERE workspace_id = %s AND id = %s
"""
SET_FILE = """
UPDATE import_files
   SET size_bytes = %s, encoding = %s, delimiter = %s, columns = %s, rows = %s
 WHERE workspace_id = %s AND import_id = %s AND round = %s
"""
SET_JOB = """
UPDATE import_files SET job_id = %s WHERE workspace_id = %s AND import_id = %s AND round = %s
"""
SET_ORDERS = "UPDATE imports SET orders = %s WHERE workspace_id = %s AND id = %s"
SET_NAME = "UPDATE imports SET file_name = %s WHERE workspace_id = %s AND id = %s"
DELETE = "DELETE FROM imports WHERE workspace_id = %s AND id = %s"
GIVE_UP = f"{DELETE} AND columns IS NULL"
GIVE_UP_FILE = """
DELETE FROM import_files
 WHERE workspace_id = %s AND import_id = %s AND round = %s AND columns IS NULL
"""
OPEN_IMPORT = "SELECT job_id FROM open_jobs WHERE workspace_id = %s AND work = %s LIMIT 1"

PURGE = "SELECT purge_imports(%s)"
"""Drops the imports of all workspaces that are older than so many seconds."""

UPSERT_FAILURES = """
INSERT INTO import_failures (workspace_id, import_id, row, cells, findings)
SELECT %s, %s, f.row, f.cells, f.findings
  FROM json_to_recordset(%s) AS f(row integer, cells json, findings json)
    ON CONFLICT (workspace_id, import_id, row)
    DO UPDATE SET cells = EXCLUDED.cells, findings = EXCLUDED.findings
"""
DELETE_FAILURES = """
DELETE FROM import_failures WHERE workspace_id = %s AND import_id = %s AND row = ANY(%s)
"""
FAILED_AMONG = """
SELECT row FROM import_failures WHERE workspace_id = %s AND import_id = %s AND row = ANY(%s)
"""
SELECT_FAILURES = """
SELECT row, cells, findings FROM import_failures
 WHERE workspace_id = %s AND import_id = %s AND row > %s ORDER BY row LIMIT %s
"""
INSERT_FINDINGS = """
WITH room AS (
    UPDATE imports SET findings = findings + %(n)s
     WHERE workspace_id = %(workspace)s AND id = %(import)s RETURNING findings - %(n)s AS known)
INSERT INTO import_findings (workspace_id, import_id, finding)
SELECT %(workspace)s, %(import)s, f.value
  FROM room, json_array_elements(%(findings)s) WITH ORDINALITY AS f(value, nth)
 WHERE known + nth <= %(most)s ORDER BY nth
"""
SELECT_FINDINGS = """
SELECT number, finding FROM import_findings
 WHERE workspace_id = %s AND import_id = %s AND number > %s ORDER BY number LIMIT %s
"""


@dataclass(frozen=True)
class StoredFile:
    """One file of an import: the first, or one with mended rows."""

    round: int
    size_bytes: int
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    rows: int
    job_id: UUID | None


@dataclass(frozen=True)
class StoredImport:
    """An import as it is kept. `options` is JSON; `columns` are those of the first file."""

    id: UUID
    kind: str
    file_name: str
    options: dict[str, Any]
    orders: dict[str, str]
    """How dates are written, by column; known when it was started."""
    columns: list[dict[str, Any]]
    version: int
    handed_in_at: datetime
    failed_rows: int
    files: tuple[StoredFile, ...]

    @property
    def last(self) -> StoredFile:
        """The file that was handed in last."""
        return self.files[-1]


@dataclass(frozen=True)
class Failure:
    """A row that failed, as it came, and why."""

    row: int
    cells: Mapping[str, str]
    findings: Sequence[Mapping[str, str]]


class ImportStore:
    """The tables of imports, in one workspace, on the connection of an open transaction."""

    def __init__(self, connection: Connection, workspace_id: UUID) -> None:
        self._connection = connection
        self._workspace = workspace_id

    def begin(self, import_id: UUID, kind: str, file_name: str) -> None:
        """A new import whose file is still handed in."""
        self._connection.execute(INSERT, (self._workspace, import_id, kind, file_name))
        self.begin_file(import_id)

    def begin_file(self, import_id: UUID) -> int:
        """A further file; its round."""
        values = {"workspace": self._workspace, "import": import_id}
        row = self._connection.execute(INSERT_FILE, values).fetchone()
        assert row is not None
        return int(row[0])

    def give_up(self, import_id: UUID, round_: int) -> None:
        """A file that was not handed in whole goes, the first one with its import."""
        self._connection.execute(GIVE_UP_FILE, (self._workspace, import_id, round_))
        self._connection.execute(GIVE_UP, (self._workspace, import_id))

    def add_parts(self, import_id: UUID, round_: int, first: int, parts: Iterable[bytes]) -> None:
        """Parts of the file, `first` the number of the first; all but the file's last are full."""
        rows = [
            (self._workspace, import_id, round_, number, part)
            for number, part in enumerate(parts, first)
        ]
        with self._connection.cursor() as cursor:
            cursor.executemany(INSERT_PART, rows)

    def part(self, import_id: UUID, round_: int, number: int) -> bytes:
        """One part; nothing where there is none."""
        found = self._connection.execute(
            SELECT_PART, (self._workspace, import_id, round_, number)
        ).fetchone()
        return bytes(found[0]) if found else b""

    def hold(self, import_id: UUID) -> None:
        """Nobody else changes or starts the import until the transaction ends."""
        self._connection.execute(HOLD, (self._workspace, import_id))

    def find(self, import_id: UUID) -> StoredImport | None:
        """The import, None where there is none."""
        found = self._select("id = %s", import_id, limit=1)
        return found[0] if found else None

    def latest(self, limit: int) -> list[StoredImport]:
        """The imports that were handed in last."""
        return self._select("true", limit=limit)

    def set_options(
        self, import_id: UUID, options: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]
    ) -> None:
        """What is to become of the columns."""
        values = (_json(options), _json(columns), self._workspace, import_id)
        self._connection.execute(SET_OPTIONS, values)

    def set_name(self, import_id: UUID, file_name: str) -> None:
        """What the file is called."""
        self._connection.execute(SET_NAME, (file_name, self._workspace, import_id))

    def set_orders(self, import_id: UUID, orders: Mapping[str, str]) -> None:
        """How dates are written, by column."""
        self._connection.execute(SET_ORDERS, (_json(orders), self._workspace, import_id))

    def open_import(self, work: str) -> UUID | None:
        """The job of an import into the workspace that has not ended."""
        row = self._connection.execute(OPEN_IMPORT, (self._workspace, work)).fetchone()
        return row[0] if row else None

    def set_file(self, import_id: UUID, file: StoredFile) -> None:
        """What was found out about the file."""
        values = (file.size_bytes, file.encoding, file.delimiter, _json(file.columns), file.rows)
        where = (self._workspace, import_id, file.round)
        self._connection.execute(SET_FILE, (*values, *where))

    def set_job(self, import_id: UUID, round_: int, job_id: UUID) -> None:
        """The job that takes the rows of this file."""
        self._connection.execute(SET_JOB, (job_id, self._workspace, import_id, round_))

    def delete(self, import_id: UUID) -> None:
        """The import goes with all that is kept of it."""
        self._connection.execute(DELETE, (self._workspace, import_id))

    def add_failures(self, import_id: UUID, failures: Iterable[Failure]) -> None:
        """These rows failed, now or again."""
        rows = [
            {"row": each.row, "cells": each.cells, "findings": each.findings} for each in failures
        ]
        if rows:
            self._connection.execute(UPSERT_FAILURES, (self._workspace, import_id, _json(rows)))

    def mended(self, import_id: UUID, rows: Sequence[int]) -> None:
        """These rows did not fail this time."""
        if rows:
            self._connection.execute(DELETE_FAILURES, (self._workspace, import_id, list(rows)))

    def failed_among(self, import_id: UUID, rows: Sequence[int]) -> set[int]:
        """Those of these rows that have failed and were not mended."""
        found = self._connection.execute(FAILED_AMONG, (self._workspace, import_id, list(rows)))
        return {row[0] for row in found}

    def failures(self, import_id: UUID, after_row: int, limit: int) -> list[Failure]:
        """Failed rows in order, from the one behind this on."""
        values = (self._workspace, import_id, after_row, limit)
        return [
            Failure(row, orjson.loads(cells), orjson.loads(findings))
            for row, cells, findings in self._connection.execute(SELECT_FAILURES, values)
        ]

    def add_findings(self, import_id: UUID, findings: Sequence[Finding]) -> None:
        """Keep what there was to say, as far as there is room."""
        if not findings:
            return
        values = {
            "workspace": self._workspace,
            "import": import_id,
            "n": len(findings),
            "findings": _json([finding_as_json(each) for each in findings]),
            "most": FINDINGS_MAX,
        }
        self._connection.execute(INSERT_FINDINGS, values)

    def findings(self, import_id: UUID, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """What there was to say, each with its number; from the one behind this on."""
        values = (self._workspace, import_id, after, limit)
        rows = self._connection.execute(SELECT_FINDINGS, values)
        return [(number, orjson.loads(finding)) for number, finding in rows]

    def _select(self, which: str, *values: object, limit: int) -> list[StoredImport]:
        statement = SELECT.format(which=which)
        rows = self._connection.execute(statement, (self._workspace, *values, limit)).fetchall()
        files = self._files([row[0] for row in rows])
        return [
            StoredImport(
                id_, kind, file_name, orjson.loads(options), orjson.loads(orders),
                orjson.loads(columns), version, handed_in_at, failed_rows, tuple(files[id_]),
            )
            for (
                id_, kind, file_name, options, orders, columns, version, handed_in_at, failed_rows,
            ) in rows
        ]  # fmt: skip

    def _files(self, ids: list[UUID]) -> dict[UUID, list[StoredFile]]:
        found: dict[UUID, list[StoredFile]] = {each: [] for each in ids}
        for import_id, *values in self._connection.execute(SELECT_FILES, (self._workspace, ids)):
            round_, size, encoding, delimiter, columns, rows, job_id = values
            if columns is not None:
                names = tuple(orjson.loads(columns))
                file = StoredFile(round_, size, encoding, delimiter, names, rows, job_id)
                found[import_id].append(file)
        return found


ReadPart = Callable[[int], bytes]


@dataclass(frozen=True)
class PartsOfFile:
    """A file in the store, as a source of a table. Reads a part at a time."""

    name: str
    size_bytes: int
    read_part: ReadPart

    def open(self, offset: int = 0) -> io.RawIOBase:
        """Its bytes from this one on."""
        return _Parts(self.read_part, offset)


class _Parts(io.RawIOBase):
    def __init__(self, read_part: ReadPart, offset: int) -> None:
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


def finding_as_json(finding: Finding) -> dict[str, Any]:
    """The finding as JSON."""
    return {
        "row": finding.row,
        "severity": finding.severity.value,
        "column": finding.column,
        "value": finding.value,
        "code": finding.code,
        "message": finding.message,
    }


def options_as_json(options: ImportOptions) -> dict[str, Any]:
    """The options as they are kept."""
    return {
        "mapping": dict(options.mapping),
        "dedupeBy": list(options.dedupe_by),
        "mode": options.mode.value,
        "defaults": dict(options.defaults),
        "corrections": {name: dict(each) for name, each in options.corrections.items()},
        "known": {name: each.names for name, each in options.known.items()},
        "dates": options.dates.value if options.dates else None,
        "rowsMax": options.rows_max,
    }


def options_of(plural: str, kept: Mapping[str, Any]) -> ImportOptions:
    """The options as they were kept. Raises `ImportRefused` where the kind is none."""
    return ImportOptions(
        kind=kind_of(plural),
        mapping=kept.get("mapping", {}),
        dedupe_by=tuple(kept.get("dedupeBy", ())),
        mode=Mode(kept.get("mode", Mode.SKIP)),
        defaults=kept.get("defaults", {}),
        corrections=kept.get("corrections", {}),
        known={
            name: Lookup((value, value) for value in values)
            for name, values in kept.get("known", {}).items()
        },
        dates=DateOrder(kept["dates"]) if kept.get("dates") else None,
        rows_max=kept.get("rowsMax"),
    )


def _json(content: Any) -> str:
    return orjson.dumps(content).decode()
