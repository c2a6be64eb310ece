"""An analyst's projection: a Python file with a function and a table, run over history.

The file is outside the package. It defines TABLE, a CREATE TABLE statement, and `project(event)`,
which returns changes to its rows (docs/how-to/write-a-projection.md). The result goes to a schema,
where the next run replaces it, or to Parquet files.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import psycopg
from psycopg import sql

from eventlog.connections import Connection, follow_connection
from eventlog.locks import ANALYSIS_LOCK, try_lock
from eventlog.reading import RecordedEvent
from eventlog.reading.part import Part, count_part
from projections.changes import Patch, Put, Remove, Row, RowChange, RowKey, Table
from projections.engine.install import Definition, create_tables, guard_tables
from projections.engine.rebuild.build import REPORT_EVENTS
from projections.engine.rebuild.exchange import TablesInUse, exchange_tables
from projections.engine.rows.copying import TableCopy
from projections.engine.rows.memory import MemoryRows, apply_change
from replay.span import read_span

__all__ = [
    "Add",
    "Analysis",
    "AnalysisError",
    "Patch",
    "Put",
    "RecordedEvent",
    "Remove",
    "load_analysis",
]

SCHEMA_PREFIX = "analysis_"
RESULT_ROWS_MAX = 5_000_000
"""Maximum number of rows of a result, which is in memory at about 1 KiB a row."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
CREATE_TABLE = re.compile(r"\bCREATE\s+TABLE\s+(\w+)\s*\(", re.IGNORECASE)

PRIMARY_KEYS = """
SELECT c.relname, coalesce(array_agg(a.attname::text ORDER BY k.place)
                               FILTER (WHERE a.attname IS NOT NULL), '{}')
  FROM pg_class AS c
  LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
  LEFT JOIN unnest(i.indkey::int[]) WITH ORDINALITY AS k(attnum, place) ON true
  LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
 WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'
 GROUP BY c.relname ORDER BY c.relname
"""
COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod)
  FROM pg_attribute AS a
 WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attnum
"""
SELECT_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = %s"

Number = int | float | Decimal
ResultRows = dict[RowKey, Row]
OnProgress = Callable[[int, int], None]
"""Called with the number of events read and their total."""


class AnalysisError(Exception):
    """The analyst's file cannot be run. The message is one sentence that names the place."""


@dataclass(slots=True)
class Add:
    """Add to numbers of a row. A missing row is created, and gets the other columns from `row`."""

    table: str
    key: str
    add: dict[str, Number]
    row: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """The definitions of an analyst's file."""

    path: Path
    definition: str
    project: Callable[[RecordedEvent], Iterable[RowChange | Add] | None]

    @property
    def name(self) -> str:
        """The name of the file, without its suffix."""
        return self.path.stem

    @property
    def schema(self) -> str:
        """The schema that holds the result of the last run."""
        return SCHEMA_PREFIX + self.name


@dataclass(frozen=True)
class AnalysisResult:
    """The result of a run, before it is stored."""

    analysis: Analysis
    part: Part
    events: int
    tables: dict[str, ResultTable]


@dataclass(frozen=True)
class ResultTable:
    """The rows of a table, and its columns with PostgreSQL's names of their types."""

    table: Table
    columns: dict[str, str]
    rows: ResultRows


StoreResult = Callable[[Connection, AnalysisResult, str], None]
"""Stores a result. The last argument is the scratch schema, which has its empty tables."""


def load_analysis(path: Path) -> Analysis:
    """Read an analyst's file. Raises `AnalysisError`."""
    if not NAME.fullmatch(path.stem):
        raise AnalysisError(
            f"{path.name}: the file's name becomes that of a schema, so it must consist of at most"
            " 40 small letters, digits and underscores."
        )
    module = ModuleType(f"annals_analysis_{path.stem}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise AnalysisError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        # An import would leave compiled files beside the source.
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise AnalysisError(f"{path.name}, line {error.lineno}: {error.msg}.") from None
    except Exception as error:
        raise AnalysisError(f"{_place(path, error)}: {_error_text(error)}.") from error
    return Analysis(path, _definition(path, module), _project_function(path, module))


def run_analysis(
    url: str,
    analysis: Analysis,
    choose: Callable[[Connection], Part],
    store: StoreResult,
    report: OnProgress = lambda done, total: None,
) -> AnalysisResult:
    """Fold the chosen part of history and store the result.

    url: of the projector's role. An earlier result stays unchanged until the new one is complete.
    Raises `AnalysisError` and `psycopg.Error`.
    """
    scratch = f"{analysis.schema}_new"
    with (
        follow_connection(url, application_name="annals-analysis") as connection,
        _run_lock(connection, analysis),
    ):
        try:
            tables = _make_tables(connection, analysis, scratch)
            result = _fold(connection, analysis, choose(connection), tables, scratch, report)
            store(connection, result, scratch)
        finally:
            if not connection.closed:
                _drop(connection, scratch)
    return result


def store_in_schema(connection: Connection, result: AnalysisResult, scratch: str) -> None:
    """Store a result in the file's schema, and replace the earlier one in one transaction."""
    for each in result.tables.values():
        try:
            copy = TableCopy(connection, scratch, each.table)
            names = copy.columns
            copy.add(names, ((key, [row.get(n) for n in names]) for key, row in each.rows.items()))
            copy.write()
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise _refused_by_postgres(result.analysis, error) from None
        name = sql.Identifier(scratch, each.table.name)
        connection.execute(sql.SQL("ANALYZE {}").format(name))
    with connection.transaction():
        guard_tables(connection, scratch)
        schema = sql.Identifier(scratch)
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO annals_app").format(schema))
        about = sql.Literal(_provenance(result))
        connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, about))
    _exchange(connection, result.analysis, scratch)


def _definition(path: Path, module: ModuleType) -> str:
    """The file's TABLE, with the column `workspace_id` added. Raises `AnalysisError`."""
    definition = getattr(module, "TABLE", None)
    if not isinstance(definition, str) or not CREATE_TABLE.search(definition):
        raise AnalysisError(
            f"{path.name}: TABLE must be a CREATE TABLE statement with a plain name."
        )
    return CREATE_TABLE.sub(lambda match: f"{match[0]}workspace_id uuid NOT NULL, ", definition)


def _project_function(path: Path, module: ModuleType) -> Any:
    function = getattr(module, "project", None)
    if not callable(function):
        raise AnalysisError(f"{path.name} has no function project(event).")
    return function


def _make_tables(connection: Connection, analysis: Analysis, schema: str) -> list[Table]:
    _drop(connection, schema)
    try:
        with connection.transaction():
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            create_tables(connection, schema, Definition(analysis.definition, "", ""))
            rows = connection.execute(PRIMARY_KEYS, (schema,)).fetchall()
    except psycopg.Error as error:
        raise _refused_by_postgres(analysis, error) from None
    for table, key in rows:
        if len(key) != 2 or key[0] != "workspace_id":
            raise AnalysisError(
                f"{analysis.path.name}: the primary key of {table} must be (workspace_id,"
                " another column)."
            )
    return [Table(table, key=key[1]) for table, key in rows]


def _fold(
    connection: Connection,
    analysis: Analysis,
    part: Part,
    tables: list[Table],
    schema: str,
    report: OnProgress,
) -> AnalysisResult:
    total, done = count_part(connection, part), 0
    fold = _Fold(analysis, tables)
    report(0, total)
    for event in read_span(connection, part):
        fold.take(event)
        done += 1
        if done % REPORT_EVENTS == 0:
            fold.require_room()
            report(done, total)
    report(done, total)
    results = {}
    for table in tables:
        columns: dict[str, str] = dict(
            connection.execute(COLUMNS, (f"{schema}.{table.name}",)).fetchall()
        )
        results[table.name] = ResultTable(table, columns, fold.rows[table.name])
        _require_columns(analysis, results[table.name])
    return AnalysisResult(analysis, part, done, results)


class _Fold:
    """The rows that the analyst's function has produced so far."""

    def __init__(self, analysis: Analysis, tables: list[Table]) -> None:
        self._analysis = analysis
        self._tables = {table.name: MemoryRows() for table in tables}
        self.rows: dict[str, ResultRows] = {name: each.rows for name, each in self._tables.items()}

    def take(self, event: RecordedEvent) -> None:
        """Apply the function to an event. Raises `AnalysisError`."""
        try:
            for change in self._changes(event):
                apply_change(self._tables, event, change)
        except Exception as error:
            raise AnalysisError(
                f"{_place(self._analysis.path, error)}: {_error_text(error)}, at position"
                f" {event.position} ({event.topic})."
            ) from error

    def require_room(self) -> None:
        """Raise `AnalysisError` if there are more rows than `RESULT_ROWS_MAX`."""
        if sum(map(len, self.rows.values())) > RESULT_ROWS_MAX:
            raise AnalysisError(
                f"{self._analysis.path.name} makes more than {RESULT_ROWS_MAX:,} rows. They are"
                " folded in memory, so choose a coarser key."
            )

    def _changes(self, event: RecordedEvent) -> Iterator[RowChange]:
        for change in self._analysis.project(event) or ():
            if not isinstance(change, (Add, Put, Patch, Remove)):
                raise TypeError(f"project() returned {change!r:.80}, which is not a change")
            rows = self.rows.get(change.table)
            if rows is None:
                raise LookupError(f"there is no table {change.table}")
            if not isinstance(change.key, str):
                raise TypeError(f"the key {change.key!r:.80} is not a string")
            if not isinstance(change, Add):
                yield change
            elif (event.workspace_id, change.key) in rows:
                yield Patch(change.table, change.key, change.row, _as_counters(change.add))
            else:
                yield Put(change.table, change.key, {**change.row, **change.add})


def _as_counters(add: dict[str, Number]) -> dict[str, int]:
    """Pass numbers of any type where `Patch` declares the integers of the engine's counters."""
    return cast(dict[str, int], add)


def _require_columns(analysis: Analysis, result: ResultTable) -> None:
    known = result.columns.keys()
    for row in result.rows.values():
        if not row.keys() <= known:
            unknown = ", ".join(sorted(row.keys() - known))
            raise AnalysisError(
                f"{analysis.path.name}: the table {result.table.name} has no column {unknown}."
            )


def _exchange(connection: Connection, analysis: Analysis, scratch: str) -> None:
    """Put the scratch schema in place of the last result. Raises `AnalysisError`."""
    schema = analysis.schema
    try:
        exchange_tables(connection, lambda: _replace_schema(connection, schema, scratch))
    except TablesInUse:
        raise AnalysisError(f"readers kept {schema} locked for too long; try again.") from None
    except psycopg.errors.DependentObjectsStillExist as error:
        raise AnalysisError(
            f"{schema} is in use ({error.diag.message_detail}): drop that first."
        ) from None


def _replace_schema(connection: Connection, schema: str, scratch: str) -> None:
    for (table,) in connection.execute(SELECT_TABLES, (schema,)).fetchall():
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(schema, table)))
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(schema)))
    connection.execute(
        sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(
            sql.Identifier(scratch), sql.Identifier(schema)
        )
    )


def _drop(connection: Connection, schema: str) -> None:
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


@contextmanager
def _run_lock(connection: Connection, analysis: Analysis) -> Iterator[None]:
    """Keep others from running a file of this name until the connection closes."""
    if not try_lock(connection, ANALYSIS_LOCK, analysis.schema):
        raise AnalysisError(f"{analysis.name} is being run already.")
    yield


def _provenance(result: AnalysisResult) -> str:
    part = result.part
    scope = f" in workspace {part.workspace_id}" if part.workspace_id else ""
    until = f", occurred until {part.occurred_until.isoformat()}" if part.occurred_until else ""
    return (
        f"Made by annals project from {result.analysis.path.name}: {result.events} events after"
        f" position {part.after} up to {part.upto}{scope}{until}."
    )


def _refused_by_postgres(analysis: Analysis, error: psycopg.Error) -> AnalysisError:
    """An error with PostgreSQL's message about the table or a value, and its place in the rows."""
    where = f" ({error.diag.context.splitlines()[0]})" if error.diag.context else ""
    message = error.diag.message_primary or str(error).splitlines()[0]
    return AnalysisError(f"{analysis.path.name}: PostgreSQL refuses it: {message}{where}.")


def _place(path: Path, error: BaseException) -> str:
    """The file, and the last of its lines that the traceback names."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{path.name}, line {lines[-1]}" if lines else path.name


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
