"""The tables of imports: uploaded files in parts, options, failed rows and issues.

Everything runs within transactions of the log, and so in one workspace. The tables are defined in
eventlog/sql/0007_imports.sql; they call issues findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from commands.importing.cells import DateOrder, Lookup
from commands.importing.files import SourceTable, UploadedFile
from commands.importing.issues import ImportIssue
from commands.importing.mapping import ImportOptions, Mode, kind_of
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog

ISSUES_MAX = 200_000
"""Maximum number of issues that are stored for an import; more are only counted."""
FIRST_ROUND = 1
"""The round of the file itself; files of corrections are round 2, 3, …"""

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
LOCK = "SELECT FROM imports WHERE workspace_id = %s AND id = %s FOR UPDATE"
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
# Deletes it unless a job works on it; the last argument says whether only an unfinished upload.
DELETE = "SELECT delete_import(%s, %s, %s)"
DELETE_UNFINISHED_FILE = """
DELETE FROM import_files
 WHERE workspace_id = %s AND import_id = %s AND round = %s AND columns IS NULL
"""
SELECT_OPEN_JOB = "SELECT job_id FROM open_jobs WHERE workspace_id = %s AND work = %s LIMIT 1"

PURGE = "SELECT purge_imports(%s)"
"""Drops the imports of all workspaces that are older than this number of seconds."""

UPSERT_FAILED_ROWS = """
INSERT INTO import_failures (workspace_id, import_id, row, cells, findings)
SELECT %s, %s, f.row, f.cells, f.issues
  FROM json_to_recordset(%s) AS f(row integer, cells json, issues json)
    ON CONFLICT (workspace_id, import_id, row)
    DO UPDATE SET cells = EXCLUDED.cells, findings = EXCLUDED.findings
"""
DELETE_FAILED_ROWS = """
DELETE FROM import_failures WHERE workspace_id = %s AND import_id = %s AND row = ANY(%s)
"""
FAILED_AMONG = """
SELECT row FROM import_failures WHERE workspace_id = %s AND import_id = %s AND row = ANY(%s)
"""
SELECT_FAILED_ROWS = """
SELECT row, cells, findings FROM import_failures
 WHERE workspace_id = %s AND import_id = %s AND row > %s ORDER BY row LIMIT %s
"""
INSERT_ISSUES = """
WITH room AS (
    UPDATE imports SET findings = findings + %(n)s
     WHERE workspace_id = %(workspace)s AND id = %(import)s RETURNING findings - %(n)s AS known)
INSERT INTO import_findings (workspace_id, import_id, finding)
SELECT %(workspace)s, %(import)s, f.value
  FROM room, json_array_elements(%(issues)s) WITH ORDINALITY AS f(value, nth)
 WHERE known + nth <= %(max)s ORDER BY nth
"""
SELECT_ISSUES = """
SELECT number, finding FROM import_findings
 WHERE workspace_id = %s AND import_id = %s AND number > %s ORDER BY number LIMIT %s
"""


@dataclass(frozen=True)
class StoredFile:
    """One file of an import: the first one, or one with corrections."""

    round: int
    size_bytes: int
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    rows: int
    job_id: UUID | None


@dataclass(frozen=True)
class StoredImport:
    """An import as it is stored. `options` is JSON; `columns` are those of the first file."""

    id: UUID
    kind: str
    file_name: str
    options: dict[str, Any]
    orders: dict[str, str]
    """How dates are written, by column; detected when the import was started."""
    columns: list[dict[str, Any]]
    version: int
    handed_in_at: datetime
    failed_rows: int
    files: tuple[StoredFile, ...]

    @property
    def last_job_id(self) -> UUID | None:
        """The job of the last file that has one."""
        return next((each.job_id for each in reversed(self.files) if each.job_id), None)


@dataclass(frozen=True)
class FailedRow:
    """A row that failed, as it was in the file, and its issues as JSON."""

    row: int
    cells: Mapping[str, str]
    issues: Sequence[Mapping[str, str]]


class ImportStore:
    """The imports of one workspace, on the connection of an open transaction."""

    def __init__(self, connection: Connection, workspace_id: UUID) -> None:
        self._connection = connection
        self._workspace = workspace_id

    def insert(self, import_id: UUID, kind: str, file_name: str) -> None:
        """Insert an import whose file is being uploaded."""
        self._connection.execute(INSERT, (self._workspace, import_id, kind, file_name))
        self.insert_file(import_id)

    def insert_file(self, import_id: UUID) -> int:
        """Insert a further file; return its round."""
        values = {"workspace": self._workspace, "import": import_id}
        row = self._connection.execute(INSERT_FILE, values).fetchone()
        assert row is not None
        return int(row[0])

    def delete_unfinished(self, import_id: UUID, round_: int) -> None:
        """Delete a file whose upload did not end; with the first file the import, too."""
        self._connection.execute(DELETE_UNFINISHED_FILE, (self._workspace, import_id, round_))
        self._connection.execute(DELETE, (self._workspace, import_id, True))

    def add_parts(self, import_id: UUID, round_: int, first: int, parts: Iterable[bytes]) -> None:
        """Store parts of a file; `first` is the number of the first one."""
        rows = [
            (self._workspace, import_id, round_, number, part)
            for number, part in enumerate(parts, first)
        ]
        with self._connection.cursor() as cursor:
            cursor.executemany(INSERT_PART, rows)

    def part(self, import_id: UUID, round_: int, number: int) -> bytes:
        """One part of a file; empty after the last one."""
        found = self._connection.execute(
            SELECT_PART, (self._workspace, import_id, round_, number)
        ).fetchone()
        return bytes(found[0]) if found else b""

    def lock(self, import_id: UUID) -> None:
        """Keep others from changing or starting the import until the transaction ends."""
        self._connection.execute(LOCK, (self._workspace, import_id))

    def find(self, import_id: UUID) -> StoredImport | None:
        """The import, None if it does not exist or its upload has not ended."""
        found = self._select("id = %s", import_id, limit=1)
        return found[0] if found else None

    def latest(self, limit: int) -> list[StoredImport]:
        """The imports that were uploaded last."""
        return self._select("true", limit=limit)

    def set_options(
        self, import_id: UUID, options: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]
    ) -> None:
        """Set options and columns, and increment the version."""
        values = (_json(options), _json(columns), self._workspace, import_id)
        self._connection.execute(SET_OPTIONS, values)

    def set_name(self, import_id: UUID, file_name: str) -> None:
        """Set the name of the file."""
        self._connection.execute(SET_NAME, (file_name, self._workspace, import_id))

    def set_orders(self, import_id: UUID, orders: Mapping[str, str]) -> None:
        """Set how dates are written, by column."""
        self._connection.execute(SET_ORDERS, (_json(orders), self._workspace, import_id))

    def open_job(self, work: str) -> UUID | None:
        """A job of this kind of work that has not ended in the workspace."""
        row = self._connection.execute(SELECT_OPEN_JOB, (self._workspace, work)).fetchone()
        return row[0] if row else None

    def set_file(self, import_id: UUID, file: StoredFile) -> None:
        """Set the properties of a file that was inspected."""
        values = (file.size_bytes, file.encoding, file.delimiter, _json(file.columns), file.rows)
        where = (self._workspace, import_id, file.round)
        self._connection.execute(SET_FILE, (*values, *where))

    def set_job(self, import_id: UUID, round_: int, job_id: UUID) -> None:
        """Set the job that imports a file."""
        self._connection.execute(SET_JOB, (job_id, self._workspace, import_id, round_))

    def delete(self, import_id: UUID) -> None:
        """Delete the import with its files, failed rows and issues."""
        self._connection.execute(DELETE, (self._workspace, import_id, False))

    def add_failed_rows(self, import_id: UUID, failed: Iterable[FailedRow]) -> None:
        """Store rows that failed, for the first time or again."""
        rows = [{"row": each.row, "cells": each.cells, "issues": each.issues} for each in failed]
        if rows:
            self._connection.execute(UPSERT_FAILED_ROWS, (self._workspace, import_id, _json(rows)))

    def remove_failed_rows(self, import_id: UUID, rows: Sequence[int]) -> None:
        """Remove rows that did not fail when they were corrected."""
        if rows:
            self._connection.execute(DELETE_FAILED_ROWS, (self._workspace, import_id, list(rows)))

    def failed_among(self, import_id: UUID, rows: Sequence[int]) -> set[int]:
        """Those of these rows that failed and were not corrected."""
        found = self._connection.execute(FAILED_AMONG, (self._workspace, import_id, list(rows)))
        return {row[0] for row in found}

    def failed_rows(self, import_id: UUID, after_row: int, limit: int) -> list[FailedRow]:
        """The failed rows after this one, in order."""
        values = (self._workspace, import_id, after_row, limit)
        return [
            FailedRow(row, orjson.loads(cells), orjson.loads(issues))
            for row, cells, issues in self._connection.execute(SELECT_FAILED_ROWS, values)
        ]

    def add_issues(self, import_id: UUID, issues: Sequence[ImportIssue]) -> None:
        """Count these issues, and store them up to `ISSUES_MAX`."""
        if not issues:
            return
        values = {
            "workspace": self._workspace,
            "import": import_id,
            "n": len(issues),
            "issues": _json([each.as_json() for each in issues]),
            "max": ISSUES_MAX,
        }
        self._connection.execute(INSERT_ISSUES, values)

    def issues(self, import_id: UUID, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """The issues after this number, each with its number, as JSON."""
        values = (self._workspace, import_id, after, limit)
        rows = self._connection.execute(SELECT_ISSUES, values)
        return [(number, orjson.loads(issue)) for number, issue in rows]

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


def uploaded_file(
    log: EventLog, scope: Scope, import_id: UUID, round_: int, name: str, size_bytes: int
) -> UploadedFile:
    """A stored file. Each part is read in the open transaction, or in a new one."""

    def read_part(number: int) -> bytes:
        with log.transaction(scope) as connection:
            return ImportStore(connection, scope.workspace_id).part(import_id, round_, number)

    return UploadedFile(name, size_bytes, read_part)


def stored_table(
    log: EventLog, scope: Scope, stored: StoredImport, file: StoredFile
) -> SourceTable:
    """A stored file as a table."""
    source = uploaded_file(log, scope, stored.id, file.round, stored.file_name, file.size_bytes)
    return SourceTable(source, file.encoding, file.delimiter, file.columns, file.rows)


def options_as_json(options: ImportOptions) -> dict[str, Any]:
    """The options as they are stored."""
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


def options_from_json(plural: str, stored: Mapping[str, Any]) -> ImportOptions:
    """The options from their JSON. Raises `ImportRefused` if the kind cannot be imported."""
    return ImportOptions(
        kind=kind_of(plural),
        mapping=stored.get("mapping", {}),
        dedupe_by=tuple(stored.get("dedupeBy", ())),
        mode=Mode(stored.get("mode", Mode.SKIP)),
        defaults=stored.get("defaults", {}),
        corrections=stored.get("corrections", {}),
        known={
            name: Lookup((value, value) for value in values)
            for name, values in stored.get("known", {}).items()
        },
        dates=DateOrder(stored["dates"]) if stored.get("dates") else None,
        rows_max=stored.get("rowsMax"),
    )


def _json(content: Any) -> str:
    return orjson.dumps(content).decode()
