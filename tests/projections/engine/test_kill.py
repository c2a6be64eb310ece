"""A rebuild that is killed with SIGKILL leaves no process behind, and the next one succeeds."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import psutil
import psycopg
import pytest

from benchmarks.generated import fill_log
from eventlog.connections import Connection, follow_connection
from eventlog.reading import readable_position
from projections.engine.ledger.coverage import gaps
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild import runner
from projections.engine.rebuild.runner import Rebuild
from projections.engine.rebuild.sessions import hold_shadow
from readmodels import table_definitions
from tests.support.databases import Urls
from tests.support.killable_rebuild import NAMES, PART_EVENTS_MIN, WORKERS
from tests.support.oracle import assert_tables_match_log
from tests.support.processes import running_engine, start_module
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=25)

EVENTS = 600
SEED = 20_261_126
KILLS = 4
AFTER_S = (0.0, 0.4)
"""The time from the first fold process to the kill; a rebuild takes about as long."""
SLOW_EVENTS_PER_S = 60
"""At this rate the fold processes are still at work when they are killed."""


@pytest.fixture
def projected(urls: Urls, engine: ProjectionEngine) -> None:
    """Fill a log and project it."""
    fill_log(urls.app, EVENTS)
    engine.catch_up()


def kill_a_rebuild(urls: Urls, output: Path, after_s: float, events_per_s: float) -> None:
    """Start a rebuild, kill it when its fold processes work, and require that these end."""
    process = start_module(
        output, "tests.support.killable_rebuild", urls.projector, str(events_per_s)
    )
    parent = psutil.Process(process.pid)
    try:
        wait_until(
            lambda: process.poll() is not None or len(children_of(parent)) > WORKERS,
            "the fold processes run",  # and the tracker of multiprocessing
        )
        assert process.poll() in (None, 0), output.read_text("utf-8")
        children = children_of(parent)
        time.sleep(after_s)  # the moment of the kill is random
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def children_of(parent: psutil.Process) -> list[psutil.Process]:
    """The processes that it has started; none if it has ended."""
    try:
        return parent.children(recursive=True)
    except psutil.Error:
        return []


def rebuild(urls: Urls) -> None:
    """Rebuild the same projections, at once."""
    definitions = table_definitions()
    Rebuild(urls.projector, {name: definitions[name] for name in NAMES}, workers=WORKERS).run()


def assert_whole(database: Connection) -> None:
    """Assert that all rows are those of an independent fold, and each event was consumed once."""
    assert_tables_match_log(database)
    for name in NAMES:
        assert gaps(database, name, upto=readable_position(database)) == []


@pytest.mark.parametrize("events_per_s", [0, SLOW_EVENTS_PER_S])
def test_killed_rebuild_takes_its_processes_along_and_the_next_one_succeeds(
    events_per_s: float, projected: None, urls: Urls, engine: ProjectionEngine,
    database: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(runner, "PART_EVENTS_MIN", PART_EVENTS_MIN)
    random = Random(SEED)
    with running_engine(engine):
        for number in range(KILLS):
            output = tmp_path / f"{number}.log"
            kill_a_rebuild(urls, output, random.uniform(*AFTER_S), events_per_s)
            rebuild(urls)
            assert_whole(database)
    states = database.execute("SELECT DISTINCT state FROM projection_rebuilds ORDER BY 1")
    assert states.fetchall() in ([("done",), ("failed",)], [("done",)])


def test_sessions_of_a_killed_rebuild_are_disconnected(
    projected: None, urls: Urls, engine: ProjectionEngine, database: Connection
) -> None:
    with follow_connection(urls.projector, application_name="test") as left_behind:
        hold_shadow(left_behind, "accounts")
        with running_engine(engine):
            rebuild(urls)
        wait_until(lambda: is_lost(left_behind), "the session is disconnected")
    assert_whole(database)


def is_lost(connection: Connection) -> bool:
    """Whether the server has ended the session."""
    try:
        connection.execute("SELECT 1")
    except psycopg.Error:
        return True
    return False
