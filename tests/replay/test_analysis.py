"""An analyst's projection of history into a schema or Parquet, and history as Parquet."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import psycopg
import pytest

from api.http.parameters import parse_time
from benchmarks.generated import generate
from eventlog.connections import Connection
from eventlog.digest import DIGEST_SQL
from eventlog.locks import ANALYSIS_LOCK
from replay import span
from replay.analysis import (
    AnalysisError,
    AnalysisResult,
    load_analysis,
    run_analysis,
    store_in_schema,
)
from replay.folders import FolderInUse
from replay.parquet import export_history, store_in_folder
from replay.span import choose_part, parse_as_of
from tests.support.databases import Urls
from tests.support.recorded_schemas import OCCURRED, append

HERE, THERE = UUID(int=1), UUID(int=2)

TOPICS = """
from replay.analysis import Add

TABLE = "CREATE TABLE topics (topic text, n bigint NOT NULL, PRIMARY KEY (workspace_id, topic))"

def project(event):
    yield Add("topics", event.topic, {"n": 1})
"""

COMPANIES = '''
from replay.analysis import Patch, Put, Remove

TABLE = """
CREATE TABLE companies (
    id uuid,
    company text NOT NULL,
    moves bigint NOT NULL,
    worth numeric(18,2),
    big boolean NOT NULL,
    seen timestamptz NOT NULL,
    facts jsonb NOT NULL,
    PRIMARY KEY (workspace_id, id)
);
CREATE INDEX ON companies (company);
"""

def project(event):
    if event.topic == "account.created":
        fields = event.data["fields"]
        row = {"company": fields["company"], "moves": 0, "worth": fields["dealValue"], "big": True}
        return [Put("companies", event.stream_id,
                    {**row, "seen": event.occurred_at, "facts": fields["customFields"]})]
    if event.topic == "account.status_changed":
        return [Patch("companies", event.stream_id, add={"moves": 1})]
    if event.topic == "account.updated" and event.position % 20 < 10:
        return [Remove("companies", event.stream_id)]
'''


@pytest.fixture
def history(urls: Urls) -> list[Any]:
    """Append 100 events in workspace HERE and 50 in THERE."""
    found = []
    with psycopg.connect(urls.app, autocommit=True) as connection:
        for workspace, count in ((HERE, 100), (THERE, 50)):
            events = list(itertools.islice(generate(workspace.int), count))
            append(connection, workspace, events)
            found += [(workspace, each) for each in events]
    return found


def analysed(
    urls: Urls, folder: Path, source: str, *, name: str = "mine", **chosen: Any
) -> AnalysisResult:
    """Run an analysis file with this source into its schema."""
    path = folder / f"{name}.py"
    path.write_text(source, "utf-8")
    return run_analysis(
        urls.projector,
        load_analysis(path),
        lambda connection: choose_part(connection, **chosen),
        store_in_schema,
    )


def query(statement: str) -> list[Any]:
    """Run a statement in DuckDB; return its rows."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(statement).fetchall()


def counted(database: Connection) -> dict[tuple[UUID, str], int]:
    rows = database.execute("SELECT workspace_id, topic, n FROM analysis_mine.topics")
    return {(workspace, topic): n for workspace, topic, n in rows}


def topics(history: list[Any]) -> dict[tuple[UUID, str], int]:
    return dict(Counter((workspace, topic) for workspace, (_, _, topic, _, _) in history))


def test_rows_match_fold_over_history(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    result = analysed(urls, tmp_path, TOPICS)
    assert result.events == 150
    assert counted(database) == topics(history)


def test_window_size_does_not_change_the_result(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(span, "WINDOW_POSITIONS", 7)
    analysed(urls, tmp_path, TOPICS)
    assert counted(database) == topics(history)


@pytest.mark.parametrize(
    ("chosen", "of"),
    [
        ({"first": 31}, slice(30, 150)),
        ({"as_of": 42}, slice(0, 42)),
        ({"first": 31, "as_of": 42}, slice(30, 42)),
        ({"workspace_id": THERE}, slice(100, 150)),
        ({"as_of": 10_000}, slice(0, 150)),
    ],
)
def test_analysis_covers_only_the_chosen_part(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path,
    chosen: dict[str, Any], of: slice,
) -> None:  # fmt: skip
    analysed(urls, tmp_path, TOPICS, **chosen)
    assert counted(database) == topics(history[of])


def test_as_of_time_uses_time_of_occurrence(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    # Both workspaces began at the same time, one event a second.
    analysed(urls, tmp_path, TOPICS, as_of=OCCURRED.replace(second=9))
    assert counted(database) == topics(history[:10] + history[100:110])


def test_as_of_parses_positions_and_times() -> None:
    assert parse_as_of("4711") == 4711
    end_of_day = datetime(2026, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert parse_as_of("2026-03-31") == parse_time("2026-03-31") == end_of_day
    assert parse_as_of("2026-03-31T12:00-20:00") == datetime(2026, 4, 1, 8, tzinfo=UTC)
    assert parse_as_of("2026-03-31T12:00+02:00") == datetime(2026, 3, 31, 10, tzinfo=UTC)
    with pytest.raises(ValueError, match="March"):
        parse_as_of("March")


def test_rows_are_put_patched_and_removed(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    analysed(urls, tmp_path, COMPANIES)
    created = {each[0]: each[4]["fields"] for _, each in history if each[2] == "account.created"}
    removed = {
        each[0]
        for position, (_, each) in enumerate(history, start=1)
        if each[2] == "account.updated" and position % 20 < 10
    }
    assert removed
    rows = database.execute("SELECT id::text, company, moves FROM analysis_mine.companies")
    assert {row[0]: row[1:] for row in rows} == {
        key: (fields["company"], 1) for key, fields in created.items() if key not in removed
    }


def test_second_run_replaces_first_despite_reader(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    analysed(urls, tmp_path, TOPICS, as_of=10)
    with psycopg.connect(urls.projector) as reader:
        reader.execute("SELECT count(*) FROM analysis_mine.topics")
        with pytest.raises(AnalysisError, match="line 7: ZeroDivisionError"):
            analysed(urls, tmp_path, TOPICS.replace("yield", "1 / 0\n   "))
    assert counted(database) == topics(history[:10])
    analysed(urls, tmp_path, TOPICS)
    assert counted(database) == topics(history)
    note = database.execute("SELECT obj_description('analysis_mine'::regnamespace)").fetchone()
    assert note == ("Made by annals project from mine.py: 150 events after position 0 up to 150.",)
    left = database.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'analysis%new'")
    assert left.fetchall() == []


def test_result_with_dependent_view_is_not_replaced(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    analysed(urls, tmp_path, TOPICS)
    database.execute("CREATE VIEW public.mine AS SELECT topic FROM analysis_mine.topics")
    with pytest.raises(AnalysisError, match=r"in use \(view mine depends on"):
        analysed(urls, tmp_path, TOPICS)


def test_api_sees_only_its_workspace_in_a_result(
    urls: Urls, history: list[Any], tmp_path: Path
) -> None:
    analysed(urls, tmp_path, TOPICS)
    with psycopg.connect(urls.app, autocommit=True) as connection:
        workspaces = "SELECT DISTINCT workspace_id FROM analysis_mine.topics"
        assert connection.execute(workspaces).fetchall() == []
        connection.execute("SELECT set_config('annals.workspace_id', %s, false)", (str(THERE),))
        assert connection.execute(workspaces).fetchall() == [(THERE,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM analysis_mine.topics")


TABLE = 'TABLE = "CREATE TABLE t (k text, n int NOT NULL, PRIMARY KEY (workspace_id, k))"\n'
ADD = "from replay.analysis import Add, Patch, Put\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def project(event:\n", r"mine.py, line 1: .*never closed"),
        ("import nowhere\n", r"mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("def project(event): ...\n", "TABLE must be a CREATE TABLE statement"),
        (TABLE, r"has no function project\(event\)"),
        (TABLE.replace("int NOT", "int3 NOT") + "def project(event): ...", '"int3" does not exist'),
        (TABLE.replace("workspace_id, k", "k") + "def project(event): ...", "key of t must be"),
        (
            TABLE + "def project(event):\n    event.data['x']",
            r"line 3: KeyError: 'x', at position 1",
        ),
        (
            TABLE + "def project(event):\n    yield 7",
            r"returned 7, which is not a change, at position 1 ",
        ),
        (TABLE + ADD + "def project(e):\n  yield Add('u', 'k', {'n': 1})", "there is no table u"),
        (TABLE + ADD + "def project(e):\n  yield Add('t', 1, {'n': 1})", "key 1 is not a string"),
        (TABLE + ADD + "def project(e):\n  yield Put('t', 'k', {'m': 1})", "t has no column m"),
        (TABLE + ADD + "def project(e):\n  yield Put('t', 'k', {})", r'null value in column "n"'),
        (TABLE + ADD + "def project(e):\n  yield Put('t', 'k', {'n': 'x'})", "COPY t, line 1, col"),
    ],
)
def test_faulty_file_is_refused_in_one_sentence(
    urls: Urls, history: list[Any], tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(AnalysisError, match=message) as error:
        analysed(urls, tmp_path, source)
    assert "\n" not in str(error.value)


def test_file_name_unfit_for_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="small letters"):
        load_analysis(tmp_path / "Won-by-month.py")


def test_concurrent_run_of_file_is_refused(urls: Urls, history: list[Any], tmp_path: Path) -> None:
    with psycopg.connect(urls.projector) as other:
        other.execute("SELECT pg_advisory_lock(%s, hashtext('analysis_mine'))", [ANALYSIS_LOCK])
        with pytest.raises(AnalysisError, match="mine is being run already"):
            analysed(urls, tmp_path, TOPICS)


def test_parquet_has_rows_and_types_of_the_table(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    analysed(urls, tmp_path, COMPANIES)
    run_analysis(
        urls.projector,
        load_analysis(tmp_path / "mine.py"),
        choose_part,
        store_in_folder(tmp_path / "out"),
    )
    file = f"read_parquet('{tmp_path}/out/companies.parquet')"
    columns = "id::text, company, moves, worth, big, seen::text, facts->>'sector'"
    database.execute("SET TimeZone = 'UTC'")
    in_schema = f"SELECT {columns} FROM analysis_mine.companies ORDER BY id"
    expected = database.execute(in_schema.encode()).fetchall()
    assert len(expected) > 3
    assert query(f"SELECT {columns} FROM {file} ORDER BY id") == expected
    types = {row[0]: row[1] for row in query(f"DESCRIBE SELECT * FROM {file}")}
    assert types["worth"] == "DECIMAL(18,2)"
    assert types["moves"] == "BIGINT"
    assert types["seen"] == "TIMESTAMP WITH TIME ZONE"


def test_history_export_is_complete_and_split_by_month_of_recording(
    urls: Urls, history: list[Any], database: Connection, tmp_path: Path
) -> None:
    late = """
        INSERT INTO events (workspace_id, stream_id, stream_version, topic, data, metadata,
                            occurred_at, recorded_at)
        SELECT %s, gen_random_uuid(), 1, 'note.created', '{"fields": {}}', '{}', now(), at
          FROM unnest(ARRAY['2026-01-31 23:59:59.9Z', '2026-02-01Z', '2026-01-31 23:59:59.95Z',
                            '2026-03-01Z', '2026-04-01Z', '2026-01-31Z']::timestamptz[]) AS at
    """
    database.execute(late.encode(), (HERE,))
    events = export_history(urls.projector, choose_part, tmp_path / "history")
    assert events == 156
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("history/*2026-01/*")}
    assert files == {f"history/month=2026-01/part-{number}.parquet" for number in (0, 1)}
    source = f"read_parquet('{tmp_path}/history/*/*.parquet', hive_partitioning = true)"
    columns = "position, workspace_id::uuid, topic, digest, strftime(recorded_at, '%Y-%m') = month"
    exported = query(f"SELECT {columns} FROM {source} ORDER BY position")
    in_log = f"SELECT position, workspace_id, topic, {DIGEST_SQL}, true FROM events ORDER BY 1"
    assert exported == database.execute(in_log.encode()).fetchall()


def test_failed_export_leaves_no_files_and_existing_folder_is_refused(
    urls: Urls, history: list[Any], tmp_path: Path
) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_history(urls.projector, choose_part, tmp_path / "history", fail)
    assert list(tmp_path.iterdir()) == []
    assert export_history(urls.projector, choose_part, tmp_path / "history") == 150
    with pytest.raises(FolderInUse, match="history is not empty"):
        export_history(urls.projector, choose_part, tmp_path / "history")
