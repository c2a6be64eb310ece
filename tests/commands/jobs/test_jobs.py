"""Jobs: every item is done once, despite faults, crashes and cancellation."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.entities import EntityCommands
from commands.jobs.job_store import CHUNK_ITEMS, read_items, save_items
from commands.jobs.runs import (
    CONNECTION_LOST,
    CONSECUTIVE_FAULTS_MAX,
    FRUITLESS_RUNS_MAX,
)
from commands.jobs.worker import ERRORS_KEPT_DAYS, PURGE_ERRORS, TRY_CLAIM
from domain.job import Job, JobEnded, JobStatus, JobStep
from domain.shared.refusals import NotFound
from eventlog.connections import Connection, WritesRefused, follow_connection, raw_json, write_pool
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from readmodels import table_definitions
from tests.support.databases import Urls
from tests.support.job_harness import (
    HOPELESS,
    POISON,
    REFUSED,
    WRITING,
    JobHarness,
    WritingNotes,
    hooked,
    working,
)
from tests.support.oracle import assert_tables_match_log
from tests.support.processes import api_without_projector
from tests.support.waiting import wait_until


@pytest.fixture
def job_harness(
    urls: Urls, log: EventLog, commands: EntityCommands, scope: Scope, database: Connection
) -> JobHarness:
    return JobHarness(urls, log, commands, scope, database)


def notes(count: int, name: str = "note") -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def test_job_runs_in_steps_and_does_each_item_once(
    job_harness: JobHarness, engine: ProjectionEngine
) -> None:
    items = notes(25)
    job_id = job_harness.ask(*items)
    assert job_harness.job(job_id).status is JobStatus.WAITING
    job_harness.worker().run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.total) == (JobStatus.COMPLETED, 25)
    assert (job.processed, job.succeeded, job.failed) == (25, 25, 0)
    assert job.counts == {"written": 25}
    assert job_harness.written() == items
    topics = [
        row[0]
        for row in job_harness.database.execute(
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
    assert_tables_match_log(job_harness.database)


def test_ended_job_leaves_only_its_errors(job_harness: JobHarness) -> None:
    job_harness.ask(*notes(5), REFUSED)
    assert (job_harness.rows("open_jobs"), job_harness.rows("job_items")) == (1, 1)
    job_harness.worker().run_once()
    assert (job_harness.rows("open_jobs"), job_harness.rows("job_items")) == (0, 0)
    assert job_harness.rows("job_errors") == 1


def test_job_events_carry_the_scope_of_the_request(job_harness: JobHarness) -> None:
    scope = Scope(
        job_harness.scope.workspace_id,
        Actor("api_key", "k-7", "Nightly sync"),
        command="bulk",
        command_id="c-7",
        request_id="r-7",
        ip="192.0.2.7",
        user_agent="curl/8",
        extra={"traceparent": "00-1"},
    )
    job_id = job_harness.ask("note", scope=scope)
    job_harness.worker().run_once()
    rows = job_harness.database.execute(
        "SELECT topic, metadata FROM events ORDER BY position"
    ).fetchall()
    metadata: dict[str, Any] = dict(rows)
    assert metadata["job.requested"] == scope.metadata()
    expected = {**scope.metadata(), "jobId": str(job_id)}
    for topic in ("note.created", "job.started", "job.progressed", "job.completed"):
        assert metadata[topic] == expected


def test_refused_item_is_an_error_and_the_others_are_done(job_harness: JobHarness) -> None:
    job_id = job_harness.ask("a", REFUSED, "b", REFUSED)
    job_harness.worker().run_once()
    job = job_harness.job(job_id)
    assert (job.processed, job.succeeded, job.failed) == (4, 2, 2)
    assert job_harness.written() == ["a", "b"]
    errors = job_harness.database.execute(
        "SELECT number, error, kept FROM job_errors WHERE job_id = %s ORDER BY number", (job_id,)
    ).fetchall()
    shown = {"error": "It was refused.", "code": "E5999", "body": REFUSED}
    assert errors == [(1, {"row": 2, **shown}, {"row": 2}), (2, {"row": 4, **shown}, {"row": 4})]


@pytest.mark.parametrize("slice_s", [0.0, 60.0])
def test_item_that_raises_is_isolated_and_skipped(
    job_harness: JobHarness, caplog: pytest.LogCaptureFixture, slice_s: float
) -> None:
    before, after = notes(7, "before"), notes(17, "after")
    job_id = job_harness.ask(*before, POISON, *after)
    job_harness.worker(slice_s=slice_s).run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.COMPLETED, 24, 1)
    assert job_harness.written() == [*before, *after]
    ((error,),) = job_harness.database.execute("SELECT error FROM job_errors").fetchall()
    assert error == {"row": 8, "code": "E4500", "error": "An unexpected error occurred."}
    assert "ZeroDivisionError" in caplog.text


def test_job_fails_after_too_many_consecutive_faults(
    job_harness: JobHarness,
) -> None:
    job_id = job_harness.ask(
        *notes(3), *[POISON] * (CONSECUTIVE_FAULTS_MAX + 50), *notes(1, "last")
    )
    job_harness.worker(slice_s=60).run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.succeeded, job.failed) == (JobStatus.FAILED, 3, CONSECUTIVE_FAULTS_MAX)
    assert job_harness.written() == notes(3)
    assert job.total == CONSECUTIVE_FAULTS_MAX + 54


def test_faults_with_successes_between_them_do_not_fail_the_job(
    job_harness: JobHarness,
) -> None:
    items = [POISON, "note"] * (CONSECUTIVE_FAULTS_MAX + 1)
    job_id = job_harness.ask(*items)
    job_harness.worker(slice_s=60).run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.failed) == (JobStatus.COMPLETED, CONSECUTIVE_FAULTS_MAX + 1)
    assert job_harness.written() == ["note"] * (CONSECUTIVE_FAULTS_MAX + 1)


def test_job_whose_item_cannot_be_skipped_fails_instead_of_running_for_ever(
    job_harness: JobHarness,
) -> None:
    class Unskippable(WritingNotes):
        def skip(self, cursor: Any, error: Exception) -> JobStep:
            raise UnicodeError("cannot be stored")

    job_id = job_harness.ask(*notes(3), POISON)
    job_harness.worker({WRITING: Unskippable}).run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.succeeded) == (JobStatus.FAILED, 3)
    assert job_harness.rows("open_jobs") == 0


def test_job_whose_runs_end_before_they_have_done_anything_is_given_up(
    job_harness: JobHarness,
) -> None:
    def end_session(_limit: int) -> None:
        with job_harness.log.transaction(job_harness.scope) as connection:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    job_id = job_harness.ask(*notes(3))
    worker = job_harness.worker({WRITING: hooked(end_session)})
    for _ in range(FRUITLESS_RUNS_MAX):
        with pytest.raises(CONNECTION_LOST):
            worker.run_once()
        assert job_harness.job(job_id).is_open
    worker.run_once()
    assert job_harness.job(job_id).status is JobStatus.FAILED
    row = job_harness.database.execute(
        "SELECT data->'error'->>'code' FROM events WHERE topic = 'job.failed'"
    ).fetchone()
    assert row == ("E5032",)
    assert job_harness.rows("open_jobs") == 0


def test_job_waits_for_as_long_as_the_database_refuses_writes(job_harness: JobHarness) -> None:
    """A full disk is no fault of the job, however many runs meet it."""
    is_full = True

    def refuse(_limit: int) -> None:
        if is_full:
            raise WritesRefused("No space left on device")

    job_id = job_harness.ask(*notes(3))
    worker = job_harness.worker({WRITING: hooked(refuse)})
    for _ in range(FRUITLESS_RUNS_MAX + 3):
        with pytest.raises(WritesRefused):
            worker.run_once()
        assert job_harness.job(job_id).is_open
    is_full = False
    worker.run_once()
    assert job_harness.job(job_id).status is JobStatus.COMPLETED


def test_runs_that_do_something_are_not_counted(job_harness: JobHarness) -> None:
    job_id = job_harness.ask(*notes(10 * (FRUITLESS_RUNS_MAX + 3)))
    job_harness.worker(slice_s=0).run_once()
    assert job_harness.job(job_id).status is JobStatus.COMPLETED


def test_step_that_times_out_is_retried_with_fewer_items(job_harness: JobHarness) -> None:
    """A job run whose time is over still continues until one step has succeeded."""
    limits = []

    def time_out_with_many_items(limit: int) -> None:
        limits.append(limit)
        if limit > 2:
            with job_harness.log.transaction(job_harness.scope) as connection:
                connection.execute("SET LOCAL statement_timeout = 1")
                connection.execute("SELECT pg_sleep(1)")

    job_id = job_harness.ask(*notes(5))
    job_harness.worker({WRITING: hooked(time_out_with_many_items)}, slice_s=0).run_once()
    assert job_harness.job(job_id).succeeded == 5
    assert job_harness.written() == notes(5)
    assert limits == [10, 5, 2] * 3


def test_single_item_that_times_out_is_skipped(job_harness: JobHarness) -> None:
    def wait(_limit: int) -> None:
        with job_harness.log.transaction(job_harness.scope) as connection:
            connection.execute("SET LOCAL statement_timeout = 1")
            connection.execute("SELECT pg_sleep(1)")

    job_id = job_harness.ask("a", "b")
    job_harness.worker({WRITING: hooked(wait)}).run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.failed) == (JobStatus.COMPLETED, 2)
    errors = job_harness.database.execute("SELECT error->>'code' FROM job_errors").fetchall()
    assert errors == [("E4001",), ("E4001",)]


def test_job_that_cannot_continue_fails_with_its_reason(
    job_harness: JobHarness, engine: ProjectionEngine
) -> None:
    job_id = job_harness.ask(*notes(10), "a", HOPELESS)
    job_harness.worker().run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.processed) == (JobStatus.FAILED, 10)
    assert job_harness.written() == notes(10)
    engine.catch_up()
    ((failure,),) = job_harness.database.execute("SELECT failure FROM read.jobs").fetchall()
    assert failure["code"] == "E4500"
    assert job_harness.rows("open_jobs") == 0


def test_job_whose_work_cannot_be_opened_fails(job_harness: JobHarness) -> None:
    def refuse(context: Any) -> Any:
        raise NotFound("account", job_harness.account_id)

    job_id = job_harness.ask("a")
    job_harness.worker({WRITING: refuse}).run_once()
    assert job_harness.job(job_id).status is JobStatus.FAILED
    event = job_harness.database.execute(
        "SELECT data FROM events WHERE topic = 'job.failed'"
    ).fetchone()
    assert event is not None
    assert event[0]["error"]["code"] == "E5002"


def test_job_with_unknown_work_waits(job_harness: JobHarness) -> None:
    job_id = job_harness.ask("a", work="of a later version")
    job_harness.worker().run_once()
    assert job_harness.job(job_id).status is JobStatus.WAITING


# Cancelling


def test_cancelled_waiting_job_never_starts(job_harness: JobHarness) -> None:
    job_id = job_harness.ask("a")
    first = job_harness.jobs.cancel(job_harness.scope, job_id)
    second = job_harness.jobs.cancel(job_harness.scope, job_id)
    job_harness.worker().run_once()
    assert (first.job.status, first.job.version) == (JobStatus.CANCELLED, 2)
    assert (second.job.version, second.position) == (2, first.position)
    assert job_harness.written() == []
    assert (job_harness.rows("open_jobs"), job_harness.rows("job_items")) == (0, 0)


def test_step_is_rolled_back_if_the_job_is_cancelled_during_it(job_harness: JobHarness) -> None:
    steps = []

    def cancel_in_second_step(limit: int) -> None:
        steps.append(limit)
        if len(steps) == 2:
            elsewhere = threading.Thread(
                target=job_harness.jobs.cancel, args=(job_harness.scope, job_id)
            )
            elsewhere.start()
            elsewhere.join()

    job_id = job_harness.ask(*notes(40))
    job_harness.worker({WRITING: hooked(cancel_in_second_step)}).run_once()
    job = job_harness.job(job_id)
    assert (job.status, job.processed, steps) == (JobStatus.CANCELLED, 10, [10, 10])
    assert job_harness.written() == notes(10)


def test_ended_or_unknown_job_cannot_be_cancelled(job_harness: JobHarness) -> None:
    job_id = job_harness.ask("a")
    job_harness.worker().run_once()
    with pytest.raises(JobEnded):
        job_harness.jobs.cancel(job_harness.scope, job_id)
    with pytest.raises(NotFound):
        job_harness.jobs.cancel(job_harness.scope, uuid4())


# Several workers, several jobs


def test_claimed_job_waits_until_its_worker_is_gone(job_harness: JobHarness) -> None:
    job_id = job_harness.ask("a")
    name = f"{job_harness.scope.workspace_id} {job_id}"
    with follow_connection(job_harness.urls.app, application_name="another worker") as other:
        assert other.execute(TRY_CLAIM, (name,)).fetchone() == (True,)
        job_harness.worker().run_once()
        assert job_harness.job(job_id).status is JobStatus.WAITING
    wait_until(lambda: _is_free(job_harness, name), "the claim is free")
    job_harness.worker().run_once()
    assert job_harness.job(job_id).status is JobStatus.COMPLETED


def _is_free(job_harness: JobHarness, name: str) -> bool:
    with psycopg.connect(job_harness.urls.app) as connection:
        return connection.execute(TRY_CLAIM, (name,)).fetchone() == (True,)


def test_two_workers_with_the_same_job_do_each_item_once(job_harness: JobHarness) -> None:
    """After an unnoticed loss of the claim, the version of the job's stream prevents duplicates."""
    from commands.jobs.runs import JobRun

    job_id = job_harness.ask(*notes(30))
    steps = []

    def overtake(limit: int) -> None:
        steps.append(limit)
        if len(steps) == 2:
            environment = job_harness.worker()._environment
            run = JobRun(environment, job_harness.scope.workspace_id, job_id)
            other = threading.Thread(target=run.run)
            other.start()
            other.join()

    job_harness.worker({WRITING: hooked(overtake)}).run_once()
    assert job_harness.job(job_id).status is JobStatus.COMPLETED
    assert job_harness.written() == notes(30)


def test_open_jobs_are_run_alternately(job_harness: JobHarness) -> None:
    one, other = job_harness.ask(*notes(30, "one")), job_harness.ask(*notes(30, "other"))
    job_harness.worker(slice_s=0).run_once()
    order = [body.split()[0] for body in job_harness.written()[::10]]
    assert order == ["one", "other"] * 3
    assert job_harness.job(one).status is job_harness.job(other).status is JobStatus.COMPLETED


def test_many_jobs_of_one_workspace_do_not_hold_up_another(job_harness: JobHarness) -> None:
    for number in range(5):
        job_harness.ask(*notes(10, f"greedy-{number}"))
    patient = Scope(uuid4(), Actor("member", "ada", "Ada"), command_id=str(uuid4()))
    job_harness.ask(*notes(30, "patient"), scope=patient)
    job_harness.worker(slice_s=0).run_once()
    order = [body.split("-")[0].split()[0] for body in job_harness.written()[::10]]
    assert order == ["greedy", "patient"] * 3 + ["greedy"] * 2


def test_one_workspace_does_not_fill_the_list_of_candidates(
    job_harness: JobHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.jobs.worker.CANDIDATES_MAX", 2)
    for _ in range(3):
        job_harness.ask("greedy")
    patient = Scope(uuid4(), Actor("member", "ada", "Ada"), command_id=str(uuid4()))
    job_harness.ask("patient", scope=patient)
    with follow_connection(job_harness.urls.app, application_name="claims") as claims:
        worker = job_harness.worker()
        assert worker.run_slice(claims)
        assert worker.run_slice(claims)
    assert job_harness.written() == ["greedy", "patient"]


def test_two_workers_run_two_jobs_at_the_same_time(job_harness: JobHarness) -> None:
    """Each worker waits in its first step until the other one has reached its own."""
    both = threading.Barrier(2, timeout=60)

    def wait(_limit: int) -> None:
        both.wait()

    ids = [job_harness.ask(*notes(10, name)) for name in ("one", "other")]
    works = {WRITING: hooked(wait)}
    with working(job_harness.worker(works)), working(job_harness.worker(works)):
        wait_until(
            lambda: all(job_harness.job(each).status is JobStatus.COMPLETED for each in ids),
            "both jobs are completed",
        )
    assert Counter(job_harness.written()) == Counter(notes(10, "one") + notes(10, "other"))


def test_lost_connection_repeats_a_step_and_loses_no_item(job_harness: JobHarness) -> None:
    terminated: list[int] = []

    def name_connection(connection: Connection) -> None:
        raw_json(connection)
        connection.execute("SET application_name = 'worker-under-test'")

    def terminate_connections(limit: int) -> None:
        if not terminated:
            terminated.append(limit)
            job_harness.database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND (application_name = 'annals-work'"
                "    OR (application_name = 'worker-under-test' AND state = 'idle in transaction'))"
            )

    job_id = job_harness.ask(*notes(30))
    # The worker has its own pool, because this test polls the job through the harness meanwhile.
    with write_pool(job_harness.urls.app, configure=name_connection) as pool:
        works = {WRITING: hooked(terminate_connections)}
        with working(job_harness.worker(works, EventLog(pool))):
            wait_until(
                lambda: job_harness.job(job_id).status is JobStatus.COMPLETED,
                "the job is completed",
            )
    assert terminated == [10]
    assert job_harness.written() == notes(30)


# Operation


def test_rebuild_gives_the_same_rows(job_harness: JobHarness, engine: ProjectionEngine) -> None:
    job_harness.ask(*notes(12), REFUSED, POISON, REFUSED)
    job_harness.ask(*notes(10), HOPELESS)
    job_harness.worker().run_once()
    job_harness.jobs.cancel(job_harness.scope, job_harness.ask("a"))
    job_harness.ask("b")
    engine.catch_up()
    before = job_harness.database.execute(
        "SELECT t::text FROM read.jobs AS t ORDER BY 1"
    ).fetchall()
    assert len(before) == 4
    following = threading.Thread(target=engine.run)
    following.start()
    try:
        Rebuild(job_harness.urls.projector, {"jobs": table_definitions()["jobs"]}).run()
    finally:
        engine.stop()
        following.join()
    after = job_harness.database.execute("SELECT t::text FROM read.jobs AS t ORDER BY 1").fetchall()
    assert after == before
    assert_tables_match_log(job_harness.database)


def test_unclaimed_jobs_are_reported_by_health(job_harness: JobHarness) -> None:
    with api_without_projector(job_harness.urls) as client:

        def job_health() -> dict[str, Any]:
            jobs: dict[str, Any] = client.get("/healthz").json()["jobs"]
            return jobs

        assert job_health() == {"open": 0, "oldestSeconds": 0, "idleSeconds": 0, "reasons": []}
        job_harness.ask("a")
        job_harness.ask("b")
        wait_until(lambda: job_health()["open"] == 2, "health shows two open jobs")
        assert job_health()["reasons"] == []
        job_harness.database.execute("UPDATE open_jobs SET turn_at = now() - interval '1 minute'")
        wait_until(lambda: bool(job_health()["reasons"]), "health gives a reason")
        (reason,) = job_health()["reasons"]
        assert reason.startswith("2 jobs are open, and no worker has claimed one for 6")
        assert client.get("/healthz").json()["status"] == "degraded"
        metrics = client.get("/metrics").text
        assert "annals_jobs_open 2.0" in metrics
        assert "annals_jobs_oldest_seconds" in metrics
        job_harness.worker().run_once()
        wait_until(lambda: job_health()["open"] == 0, "health shows no open job")
        assert job_health()["reasons"] == []


# Storage


def test_items_are_read_in_order_from_any_offset(job_harness: JobHarness) -> None:
    items = notes(2 * CHUNK_ITEMS + 10)
    job_id = job_harness.ask(*items)
    assert job_harness.job(job_id).total == len(items)

    def read(first: int, limit: int) -> list[Any]:
        workspace = job_harness.scope.workspace_id
        with job_harness.log.transaction(job_harness.scope) as connection:
            return read_items(connection, workspace, job_id, first, limit)

    near = CHUNK_ITEMS - 3
    assert read(0, 5) == items[:5]
    assert read(near, 7) == items[near : near + 7]
    assert read(near, CHUNK_ITEMS + 10) == items[near : near + CHUNK_ITEMS + 10]
    assert read(len(items) - 2, 500) == items[-2:]
    assert read(len(items), 500) == []


def test_items_of_the_largest_job_are_read_from_any_offset(job_harness: JobHarness) -> None:
    firsts = (0, 999, 32_000, 32_766, 32_767, 32_768, 99_990)
    with job_harness.log.transaction(job_harness.scope) as connection:
        workspace, job_id = job_harness.scope.workspace_id, uuid4()
        assert save_items(connection, workspace, job_id, range(100_000)) == 100_000
        for first in firsts:
            found = read_items(connection, workspace, job_id, first, 500)
            assert found == list(range(first, min(first + 500, 100_000)))


def test_old_errors_are_deleted(job_harness: JobHarness) -> None:
    job_harness.ask(REFUSED)
    job_harness.worker().run_once()
    job_harness.database.execute(
        "UPDATE job_errors SET recorded_at = now() - make_interval(days => %s)",
        (ERRORS_KEPT_DAYS + 1,),
    )
    job_harness.ask(REFUSED)
    job_harness.worker().run_once()
    with psycopg.connect(job_harness.urls.app, autocommit=True) as connection:
        assert connection.execute(PURGE_ERRORS, (ERRORS_KEPT_DAYS,)).fetchone() == (1,)
    assert job_harness.rows("job_errors") == 1


@pytest.mark.parametrize("table", ["open_jobs", "job_items", "job_errors"])
def test_job_tables_are_invisible_to_another_workspace(job_harness: JobHarness, table: str) -> None:
    job_harness.ask(*notes(3), REFUSED)
    job_harness.worker().run_once()
    job_harness.ask("a")  # now each table has a row

    def count_rows(role_url: str, workspace: UUID | None) -> int:
        with psycopg.connect(role_url) as connection:
            if workspace is not None:
                connection.execute(
                    "SELECT set_config('annals.workspace_id', %s, true)", (str(workspace),)
                )
            row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert row is not None
            return int(row[0])

    assert job_harness.rows(table) == 1
    assert count_rows(job_harness.urls.app, job_harness.scope.workspace_id) == 1
    assert count_rows(job_harness.urls.app, uuid4()) == 0
    assert count_rows(job_harness.urls.app, None) == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        count_rows(job_harness.urls.projector, None)
    unforced = job_harness.database.execute(
        "SELECT relname FROM pg_class WHERE relname = %s AND NOT relforcerowsecurity", (table,)
    )
    assert unforced.fetchall() == []


def test_job_of_another_workspace_is_not_found(job_harness: JobHarness) -> None:
    job_id = job_harness.ask("a")
    other_scope = Scope(uuid4())
    with pytest.raises(NotFound):
        job_harness.jobs.cancel(other_scope, job_id)
    with job_harness.log.scoped(other_scope), pytest.raises(NotFound):
        job_harness.log.load(Job, job_id)
