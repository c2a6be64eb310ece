"""Parquet files for DuckDB, Spark and others: the tables of an analysis, and history.

A folder or file appears complete or not at all: it is written under another name and renamed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from eventlog.connections import Connection, follow_connection
from eventlog.reading import RecordedEvent
from eventlog.reading.part import Part, count_part
from replay.analysis import AnalysisError, AnalysisResult, OnProgress, ResultTable
from replay.folders import atomic_folder
from replay.span import read_span

ROWS_PER_WRITE = 20_000
"""Number of rows of a row group, which is in memory until it is written."""
MONTHS_OPEN_MAX = 2
"""Two, because events around the change of a month may alternate between both months."""
COMPRESSION = "zstd"
NUMERIC_DEFAULT = "numeric(38,9)"
"""The type of a numeric without precision, which Parquet does not have."""

UTC_TIME = pa.timestamp("us", tz="UTC")
TYPES = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp with time zone": UTC_TIME,
    "timestamp without time zone": pa.timestamp("us"),
}
"""By PostgreSQL's name of the type. All other types are written as text."""

HISTORY = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("workspace_id", pa.string(), nullable=False),
        pa.field("stream_id", pa.string(), nullable=False),
        pa.field("stream_version", pa.int32(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("account_id", pa.string()),
        pa.field("data", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("occurred_at", UTC_TIME, nullable=False),
        pa.field("recorded_at", UTC_TIME, nullable=False),
        pa.field("digest", pa.int64(), nullable=False),
    ]
)
"""An event in the current version, with the digest of the event as stored."""


def store_in_folder(folder: Path) -> Callable[[Connection, AnalysisResult, str], None]:
    """Return a function that stores a result, a file for each table; it raises `AnalysisError`."""

    def store(_connection: Connection, result: AnalysisResult, _scratch: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for table in result.tables.values():
            path = folder / f"{table.table.name}.parquet"
            unfinished = path.with_suffix(".parquet.unfinished")
            try:
                _write_table(unfinished, table)
                unfinished.replace(path)
            except pa.ArrowException as error:
                name = result.analysis.path.name
                raise AnalysisError(f"{name}: {str(error).splitlines()[0]}.") from None
            finally:
                unfinished.unlink(missing_ok=True)

    return store


def export_history(
    url: str,
    choose: Callable[[Connection], Part],
    folder: Path,
    report: OnProgress = lambda done, total: None,
) -> int:
    """Write a part of history, partitioned by month of recording; return the number of events.

    url: of the projector's role. Files are `month=2026-03/part-0.parquet`, in order of position.
    Memory use is constant. Raises `FolderInUse`, `OSError`, `psycopg.Error`.
    """
    done = 0
    with (
        atomic_folder(folder) as unfinished,
        follow_connection(url, application_name="annals-export") as connection,
        _Months(unfinished) as months,
    ):
        part = choose(connection)
        total = count_part(connection, part)
        report(0, total)
        for event in read_span(connection, part):
            if months.add(event):
                report(done, total)
            done += 1
        report(done, total)
    return done


class _Months:
    """The open files, one a month. A month whose file was closed gets a further file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, _MonthFile] = OrderedDict()
        self._parts: dict[str, int] = {}

    def add(self, event: RecordedEvent) -> bool:
        """Add an event; return whether that wrote rows to disk."""
        month = event.recorded_at[:7]
        if month in self._open:
            self._open.move_to_end(month)
        else:
            self._begin(month)
        return self._open[month].add(event)

    def __enter__(self) -> _Months:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _begin(self, month: str) -> None:
        if len(self._open) == MONTHS_OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        number = self._parts[month] = self._parts.get(month, -1) + 1
        folder = self._folder / f"month={month}"
        folder.mkdir(exist_ok=True)
        self._open[month] = _MonthFile(folder / f"part-{number}.parquet")


class _MonthFile:
    """A Parquet file of events, written in row groups."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, HISTORY, compression=COMPRESSION)
        self._events: list[RecordedEvent] = []

    def add(self, event: RecordedEvent) -> bool:
        self._events.append(event)
        if len(self._events) < ROWS_PER_WRITE:
            return False
        self._flush()
        return True

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._events:
            self._writer.write_table(_history_table(self._events))
            self._events = []


def _history_table(events: list[RecordedEvent]) -> pa.Table:
    columns: dict[str, Any] = {
        name: [getattr(event, name) for event in events]
        for name in HISTORY.names
        if name not in {"data", "metadata"}
    }
    columns["data"] = [orjson.dumps(event.data).decode() for event in events]
    columns["metadata"] = [event.metadata.decode() for event in events]
    for name in ("occurred_at", "recorded_at"):
        columns[name] = pa.array(columns[name], pa.string()).cast(UTC_TIME)
    return pa.table(columns, schema=HISTORY)


def _write_table(path: Path, result: ResultTable) -> None:
    key = result.table.key
    fields = [
        pa.field(name, _arrow_type(type_name), nullable=name not in {"workspace_id", key})
        for name, type_name in result.columns.items()
    ]
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema, compression=COMPRESSION) as writer:
        for block in _blocks(result):
            arrays = [pa.array(block[each.name], pa.string()).cast(each.type) for each in fields]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _blocks(result: ResultTable) -> Iterator[dict[str, list[str | None]]]:
    """Yield the rows in blocks: for each column, its values as text."""
    block: dict[str, list[str | None]] = {name: [] for name in result.columns}
    for number, ((workspace_id, key), row) in enumerate(result.rows.items(), start=1):
        for name, values in block.items():
            if name == "workspace_id":
                values.append(workspace_id)
            else:
                values.append(key if name == result.table.key else _text(row.get(name)))
        if number % ROWS_PER_WRITE == 0:
            yield block
            block = {name: [] for name in result.columns}
    yield block


def _text(value: Any) -> str | None:
    if value is None or value.__class__ is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    return str(value)


def _arrow_type(type_name: str) -> pa.DataType:
    if type_name == "numeric":
        type_name = NUMERIC_DEFAULT
    if type_name.startswith("numeric("):
        precision, scale = type_name[len("numeric(") : -1].split(",")
        return pa.decimal128(int(precision), int(scale))
    return TYPES.get(type_name, pa.string())
