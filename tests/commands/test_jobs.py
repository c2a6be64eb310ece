"""Jobs: every item once, whatever fails, whoever dies, whoever cancels."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.entities import EntityCommands
from commands.jobs.keeping import CHUNK_ITEMS, keep_items, read_items
from commands.jobs.turns import FAULTS_IN_A_ROW_MAX
from commands.jobs.worker import CLAIM, ERRORS_KEPT_DAYS, PURGE
from domain.job import Job, JobEnded, JobStatus
from domain.shared.refusals import NotFound
from eventlog.connections import Connection, follow_connection
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.rebuild import Rebuild
from readmodels import table_definitions
from tests.conftest import Urls
from tests.support.job_bench import HOPELESS, POISON, REFUSED, WRITING, Bench, hooked, working
from tests.support.oracle import assert_tables_tell_history
from tests.support.processes import answering, until


@pytest.fixture
def bench(
    urls: Urls, log: EventLog, commands: EntityCommands, scope: Scope, database: Connection
) -> Bench:
    return Bench(urls, log, commands, scope, database)


def notes(count: int, name: str = "note") -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def test_a_job_is_done_in_steps_and_each_item_once(bench: Bench, engine: ProjectionEngine) -> None:
    items = notes(25)
    job_id = bench.ask(*items)
    assert bench.job(job_id).status is JobStatus.WAITING
    bench.worker().run_once()
    job = bench.job(job_id)
    assert (job.status, job.total) == (JobStatus.COMPLETED, 25)
    assert (job.processed, job.succeeded, job.failed) == (25, 25, 0)
    assert job.counts == {"written": 25}
    assert bench.written() == items
    topics = [
        row[0]
        for row in bench.database.execute(
            "SELECT topic FROM events WHERE stream_id = %s ORDER BY position", (job_id,)
        )
    ]
    assert topics == [
        "job.requested",
        "job.started",
        *["job.progressed"] * 3,
        "job.completed",
    ]
    engine.catch_up()
    assert_tables_tell_history(bench.database)


def test_nothing_is_left_of_a_job_that_has_ended_but_its_errors(bench: Bench) -> None:
    bench.ask(*notes(5), REFUSED)
    assert (bench.rows("open_jobs"), bench.rows("job_items")) == (1, 1)
    bench.worker().run_once()
    assert (bench.rows("open_jobs"), bench.rows("job_items")) == (0, 0)
    assert bench.rows("job_errors") == 1


def test_its_events_are_those_of_whoever_asked(bench: Bench) -> None:
    scope = Scope(
        bench.scope.workspace_id,
        Actor("api_key", "k-7", "Nightly sync"),
        command="bulk",
        command_id="c-7",
        request_id="r-7",
        ip="192.0.2.7",
        user_agent="curl/8",
        extra={"traceparent": "00-1"},
    )
    job_id = bench.ask("note", scope=scope)
    bench.worker().run_once()
    rows = bench.database.execute("SELECT topic, metadata FROM events ORDER BY position").fetchall()
    metadata: dict[str, Any] = dict(rows)
    assert metadata["job.requested"] == scope.metadata()
    told = {**scope.metadata(), "jobId": str(job_id)}
    for topic in ("note.created", "job.started", "job.progressed", "job.completed"):
        assert metadata[topic] == told


def test_an_item_that_is_refused_is_an_error_and_spoils_nothing(bench: Bench) -> None:
    job_id = bench.ask("a", REFUSED, "b", REFUSED)
    bench.worker().run_once()
    job = bench.job(job_id)
    assert (job.processed, job.succeeded, job.failed) == (4, 2, 2)
    assert bench.written() == ["a", "b"]
    errors = bench.database.execute(
        "SELECT number, error, kept FROM job_errors WHERE job_id = %s ORDER BY number", (job_id,)
    ).fetchall()
    shown = {"error": "Nobody wants this.", "code": "E5999", "body": REFUSED}
    assert errors == [(1, {"row": 2, **shown}, {"row": 2}), (2, {"row": 4, **shown}, {"row": 4})]


@pytest.mark.parametrize("turn_s", [0.0, 60.0])
def test_an_item_that_breaks_its_step_is_found_and_left_out(
    bench: Bench, caplog: pytest.LogCaptureFixture, turn_s: float
) -> None:
    before, after = notes(7, "before"), notes(17, "after")
    job_id = bench.ask(*before, POISON, *after)
    bench.worker(turn_s=turn_s).run_once()
    job = bench.job(job_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 24, 1)
    assert bench.written() == [*before, *after]
    ((error,),) = bench.database.execute("SELECT error FROM job_errors").fetchall()
    assert error == {"row": 8, "code": "E4500", "error": "Something went wrong on our side."}
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_that_every_item_meets_ends_the_job_and_not_the_items(bench: Bench) -> None:
    job_id = bench.ask(*notes(3), *[POISON] * (FAULTS_IN_A_ROW_MAX + 50), *notes(1, "last"))
    bench.worker(turn_s=60).run_once()
    job = bench.job(job_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.FAILED, 3, FAULTS_IN_A_ROW_MAX)
    assert bench.written() == notes(3)
    assert job.total == FAULTS_IN_A_ROW_MAX + 54


def test_faults_with_something_done_between_them_are_those_of_the_items(bench: Bench) -> None:
    items = [POISON, "note"] * (FAULTS_IN_A_ROW_MAX + 1)
    job_id = bench.ask(*items)
    bench.worker(turn_s=60).run_once()
    job = bench.job(job_id)
    assert (job.status, job.failed) == (JobStatus.COMPLETED, FAULTS_IN_A_ROW_MAX + 1)
    assert bench.written() == ["note"] * (FAULTS_IN_A_ROW_MAX + 1)


def test_what_takes_too_long_is_tried_with_fewer_items(bench: Bench) -> None:
    """And a turn that is over by then goes on until something is done."""
    limits = []

    def wait_where_there_are_many(limit: int) -> None:
        limits.append(limit)
        if limit > 2:
            with bench.log.transaction(bench.scope) as connection:
                connection.execute("SET LOCAL statement_timeout = 1")
                connection.execute("SELECT pg_sleep(1)")

    job_id = bench.ask(*notes(5))
    bench.worker({WRITING: hooked(wait_where_there_are_many)}, turn_s=0).run_once()
    assert bench.job(job_id).succeeded == 5
    assert bench.written() == notes(5)
    assert limits == [10, 5, 2] * 3


def test_one_that_takes_too_long_alone_is_left_out_in_the_end(bench: Bench) -> None:
    def wait(_limit: int) -> None:
        with bench.log.transaction(bench.scope) as connection:
            connection.execute("SET LOCAL statement_timeout = 1")
            connection.execute("SELECT pg_sleep(1)")

    job_id = bench.ask("a", "b")
    bench.worker({WRITING: hooked(wait)}).run_once()
    job = bench.job(job_id)
    assert (job.status, job.failed) == (JobStatus.COMPLETED, 2)
    errors = bench.database.execute("SELECT error->>'code' FROM job_errors").fetchall()
    assert errors == [("E4001",), ("E4001",)]


def test_what_cannot_go_on_fails_and_says_why(bench: Bench, engine: ProjectionEngine) -> None:
    job_id = bench.ask(*notes(10), "a", HOPELESS)
    bench.worker().run_once()
    job = bench.job(job_id)
    assert (job.status, job.processed) == (JobStatus.FAILED, 10)
    assert bench.written() == notes(10)
    engine.catch_up()
    ((failure,),) = bench.database.execute("SELECT failure FROM read.jobs").fetchall()
    assert failure["code"] == "E4500"
    assert bench.rows("open_jobs") == 0


def test_work_that_cannot_be_begun_fails(bench: Bench) -> None:
    def refuses(context: Any) -> Any:
        raise NotFound("account", bench.account_id)

    job_id = bench.ask("a")
    bench.worker({WRITING: refuses}).run_once()
    assert bench.job(job_id).status is JobStatus.FAILED
    event = bench.database.execute("SELECT data FROM events WHERE topic = 'job.failed'").fetchone()
    assert event is not None
    assert event[0]["error"]["code"] == "E5002"


def test_a_kind_of_work_that_nobody_knows_waits(bench: Bench) -> None:
    job_id = bench.ask("a", work="of a later version")
    bench.worker().run_once()
    assert bench.job(job_id).status is JobStatus.WAITING


# Cancelling


def test_one_that_waits_is_cancelled_and_never_begun(bench: Bench) -> None:
    job_id = bench.ask("a")
    first = bench.jobs.cancel(bench.scope, job_id)
    second = bench.jobs.cancel(bench.scope, job_id)
    bench.worker().run_once()
    assert (first.job.status, first.job.version) == (JobStatus.CANCELLED, 2)
    assert (second.job.version, second.position) == (2, first.position)
    assert bench.written() == []
    assert (bench.rows("open_jobs"), bench.rows("job_items")) == (0, 0)


def test_a_step_during_which_the_job_is_cancelled_is_not_kept(bench: Bench) -> None:
    steps = []

    def cancel_in_the_second(limit: int) -> None:
        steps.append(limit)
        if len(steps) == 2:
            elsewhere = threading.Thread(target=bench.jobs.cancel, args=(bench.scope, job_id))
            elsewhere.start()
            elsewhere.join()

    job_id = bench.ask(*notes(40))
    bench.worker({WRITING: hooked(cancel_in_the_second)}).run_once()
    job = bench.job(job_id)
    assert (job.status, job.processed, steps) == (JobStatus.CANCELLED, 10, [10, 10])
    assert bench.written() == notes(10)


def test_what_has_ended_cannot_be_cancelled(bench: Bench) -> None:
    job_id = bench.ask("a")
    bench.worker().run_once()
    with pytest.raises(JobEnded):
        bench.jobs.cancel(bench.scope, job_id)
    with pytest.raises(NotFound):
        bench.jobs.cancel(bench.scope, uuid4())


# Several workers, several jobs


def test_a_claimed_job_is_left_alone_until_its_worker_is_gone(bench: Bench) -> None:
    job_id = bench.ask("a")
    name = f"{bench.scope.workspace_id} {job_id}"
    with follow_connection(bench.urls.app, application_name="another worker") as other:
        assert other.execute(CLAIM, (name,)).fetchone() == (True,)
        bench.worker().run_once()
        assert bench.job(job_id).status is JobStatus.WAITING
    until(lambda: _is_free(bench, name))
    bench.worker().run_once()
    assert bench.job(job_id).status is JobStatus.COMPLETED


def _is_free(bench: Bench, name: str) -> bool:
    with psycopg.connect(bench.urls.app) as connection:
        return connection.execute(CLAIM, (name,)).fetchone() == (True,)


def test_two_who_think_that_the_job_is_theirs_do_no_item_twice(bench: Bench) -> None:
    """Should a claim ever be lost unnoticed, the version of the job's stream holds."""
    from commands.jobs.turns import JobRun

    job_id = bench.ask(*notes(30))
    steps = []

    def overtake(limit: int) -> None:
        steps.append(limit)
        if len(steps) == 2:
            tools = bench.worker()._tools
            turn = JobRun(tools, bench.scope.workspace_id, job_id)
            other = threading.Thread(target=turn.take)
            other.start()
            other.join()

    bench.worker({WRITING: hooked(overtake)}).run_once()
    assert bench.job(job_id).status is JobStatus.COMPLETED
    assert bench.written() == notes(30)


def test_jobs_take_turns(bench: Bench) -> None:
    one, other = bench.ask(*notes(30, "one")), bench.ask(*notes(30, "other"))
    bench.worker(turn_s=0).run_once()
    turns = [body.split()[0] for body in bench.written()[::10]]
    assert turns == ["one", "other"] * 3
    assert bench.job(one).status is bench.job(other).status is JobStatus.COMPLETED


def test_workers_share_the_jobs(bench: Bench) -> None:
    """Each waits in its first step until the other is in one as well."""
    both = threading.Barrier(2, timeout=60)

    def wait(_limit: int) -> None:
        both.wait()

    ids = [bench.ask(*notes(10, name)) for name in ("one", "other")]
    works = {WRITING: hooked(wait)}
    with working(bench.worker(works)), working(bench.worker(works)):
        until(lambda: all(bench.job(each).status is JobStatus.COMPLETED for each in ids))
    assert Counter(bench.written()) == Counter(notes(10, "one") + notes(10, "other"))


def test_a_lost_connection_costs_a_step_and_no_item(bench: Bench) -> None:
    cut: list[int] = []

    def cut_off(limit: int) -> None:
        if not cut:
            cut.append(limit)
            bench.database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND (application_name = 'annals-work'"
                "    OR (application_name = 'annals-write' AND state = 'idle in transaction'))"
            )

    job_id = bench.ask(*notes(30))
    with working(bench.worker({WRITING: hooked(cut_off)})):
        until(lambda: bench.job(job_id).status is JobStatus.COMPLETED)
    assert cut == [10]
    assert bench.written() == notes(30)


# What operators see


def test_a_rebuild_gives_the_same_rows(bench: Bench, engine: ProjectionEngine) -> None:
    bench.ask(*notes(12), REFUSED, POISON, REFUSED)
    bench.ask(*notes(10), HOPELESS)
    bench.worker().run_once()
    bench.jobs.cancel(bench.scope, bench.ask("a"))
    bench.ask("b")
    engine.catch_up()
    before = bench.database.execute("SELECT t::text FROM read.jobs AS t ORDER BY 1").fetchall()
    assert len(before) == 4
    following = threading.Thread(target=engine.run)
    following.start()
    try:
        Rebuild(bench.urls.projector, {"jobs": table_definitions()["jobs"]}).run()
    finally:
        engine.stop()
        following.join()
    after = bench.database.execute("SELECT t::text FROM read.jobs AS t ORDER BY 1").fetchall()
    assert after == before
    assert_tables_tell_history(bench.database)


def test_jobs_that_nobody_takes_up_are_told(bench: Bench) -> None:
    with answering(bench.urls) as client:

        def told() -> dict[str, Any]:
            jobs: dict[str, Any] = client.get("/healthz").json()["jobs"]
            return jobs

        assert told() == {"open": 0, "oldestSeconds": 0, "idleSeconds": 0, "reasons": []}
        bench.ask("a")
        bench.ask("b")
        until(lambda: told()["open"] == 2)
        assert told()["reasons"] == []
        bench.database.execute("UPDATE open_jobs SET turn_at = now() - interval '1 minute'")
        until(lambda: bool(told()["reasons"]))
        (reason,) = told()["reasons"]
        assert reason.startswith("2 jobs are open, and no worker has claimed one for 6")
        assert client.get("/healthz").json()["status"] == "degraded"
        metrics = client.get("/metrics").text
        assert "annals_jobs_open 2.0" in metrics
        assert "annals_jobs_oldest_seconds" in metrics
        bench.worker().run_once()
        until(lambda: told()["open"] == 0)
        assert told()["reasons"] == []


# What is kept


def test_items_come_back_in_order_from_anywhere(bench: Bench) -> None:
    items = notes(2 * CHUNK_ITEMS + 10)
    job_id = bench.ask(*items)
    assert bench.job(job_id).total == len(items)

    def read(first: int, limit: int) -> list[Any]:
        workspace = bench.scope.workspace_id
        with bench.log.transaction(bench.scope) as connection:
            return read_items(connection, workspace, job_id, first, limit)

    near = CHUNK_ITEMS - 3
    assert read(0, 5) == items[:5]
    assert read(near, 7) == items[near : near + 7]
    assert read(near, CHUNK_ITEMS + 10) == items[near : near + CHUNK_ITEMS + 10]
    assert read(len(items) - 2, 500) == items[-2:]
    assert read(len(items), 500) == []


def test_the_items_of_the_largest_job_come_back_from_anywhere(bench: Bench) -> None:
    firsts = (0, 999, 32_000, 32_766, 32_767, 32_768, 99_990)
    with bench.log.transaction(bench.scope) as connection:
        workspace, job_id = bench.scope.workspace_id, uuid4()
        assert keep_items(connection, workspace, job_id, range(100_000)) == 100_000
        for first in firsts:
            found = read_items(connection, workspace, job_id, first, 500)
            assert found == list(range(first, min(first + 500, 100_000)))


def test_errors_go_after_a_while(bench: Bench) -> None:
    bench.ask(REFUSED)
    bench.worker().run_once()
    bench.database.execute(
        "UPDATE job_errors SET recorded_at = now() - make_interval(days => %s)",
        (ERRORS_KEPT_DAYS + 1,),
    )
    bench.ask(REFUSED)
    bench.worker().run_once()
    with psycopg.connect(bench.urls.app, autocommit=True) as connection:
        assert connection.execute(PURGE, (ERRORS_KEPT_DAYS,)).fetchone() == (1,)
    assert bench.rows("job_errors") == 1


@pytest.mark.parametrize("table", ["open_jobs", "job_items", "job_errors"])
def test_another_workspace_sees_nothing_of_it(bench: Bench, table: str) -> None:
    bench.ask(*notes(3), REFUSED)
    bench.worker().run_once()
    bench.ask("a")  # now there is a row in each

    def seen(role_url: str, workspace: UUID | None) -> int:
        with psycopg.connect(role_url) as connection:
            if workspace is not None:
                connection.execute(
                    "SELECT set_config('annals.workspace_id', %s, true)", (str(workspace),)
                )
            row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert row is not None
            return int(row[0])

    assert bench.rows(table) == 1
    assert seen(bench.urls.app, bench.scope.workspace_id) == 1
    assert seen(bench.urls.app, uuid4()) == 0
    assert seen(bench.urls.app, None) == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        seen(bench.urls.projector, None)
    unforced = bench.database.execute(
        "SELECT relname FROM pg_class WHERE relname = %s AND NOT relforcerowsecurity", (table,)
    )
    assert unforced.fetchall() == []


def test_a_job_of_another_workspace_is_not_there(bench: Bench) -> None:
    job_id = bench.ask("a")
    stranger = Scope(uuid4())
    with pytest.raises(NotFound):
        bench.jobs.cancel(stranger, job_id)
    with bench.log.scoped(stranger), pytest.raises(NotFound):
        bench.log.load(Job, job_id)
