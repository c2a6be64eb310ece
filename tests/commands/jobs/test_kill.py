"""kill -9 of workers in the middle of jobs: other workers continue, and each item is done once."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest

from commands.jobs.requests import JobCommands
from domain.account import Account
from domain.job import Job, JobStatus
from domain.shared.entity import Entity
from eventlog.connections import Connection
from eventlog.locks import JOB_LOCK
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from tests.support.databases import Urls
from tests.support.oracle import assert_tables_match_log
from tests.support.processes import running_worker
from tests.support.waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.long(seconds=10)

ITEMS = 300
STEP = 20
CRASHES = [("writing", 1), ("committed", 2), ("writing", 3), ("committed", 1)]
"""When a worker crashes, and in which of its steps."""
LARGE_JOB_ITEMS = 5_000
"""Enough items to kill a worker in the middle of them."""
WORKERS = 2

HOLDERS = f"""
SELECT a.client_port FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND l.classid::bigint >> 24 = {JOB_LOCK}
   AND l.objsubid = 1 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def request_bulk(log: EventLog, scope: Scope, items: int) -> tuple[UUID, list[UUID]]:
    """Request a job that changes this number of new accounts; return its id and theirs."""
    ids = [uuid4() for _ in range(items)]
    accounts = (
        Account.create(
            each, scope.workspace_id, {"company": "A", "type": "partner"}, at=datetime.now(UTC)
        )
        for each in ids
    )
    with log.scoped(Scope(scope.workspace_id)):
        while chunk := list[Entity](islice(accounts, 1_000)):
            log.append(*chunk)
    jobs = JobCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
    parameters = {"kind": "account", "change": {"set": {"priority": "high"}}}
    requested = jobs.request(scope, "bulk", parameters, items=map(str, ids))
    return requested.job.id, ids


def load_job(log: EventLog, scope: Scope, job_id: UUID) -> Job:
    with log.scoped(scope):
        return log.load(Job, job_id)


def count_changes(database: Connection, scope: Scope) -> Counter[UUID]:
    """Return how often the command changed each account, according to the log."""
    rows = database.execute(
        "SELECT stream_id FROM events WHERE workspace_id = %s AND topic = 'account.updated'"
        " AND metadata->>'commandId' = %s",
        (scope.workspace_id, scope.command_id),
    )
    return Counter(row[0] for row in rows)


def test_job_resumes_where_it_was_after_each_crash_of_its_worker(
    urls: Urls,
    log: EventLog,
    scope: Scope,
    database: Connection,
    engine: ProjectionEngine,
    tmp_path: Path,
) -> None:
    job_id, ids = request_bulk(log, scope, ITEMS)
    expected = 0
    for when, step in CRASHES:
        output = tmp_path / "worker.log"
        with running_worker(
            urls, output, "tests.support.crashing_worker", when, str(step), str(STEP)
        ) as process:
            assert process.wait(TIMEOUT_S) == -signal.SIGKILL, output.read_text("utf-8")
        expected += STEP * (step if when == "committed" else step - 1)
        wait_until(
            lambda: not database.execute(HOLDERS).fetchall(), "no connection holds the claim"
        )
        job = load_job(log, scope, job_id)
        assert (job.status, job.processed) == (JobStatus.RUNNING, expected)
        # Progress and changes are committed in one transaction.
        assert count_changes(database, scope) == Counter(ids[:expected])
    with running_worker(urls, tmp_path / "last.log"):
        wait_until(
            lambda: load_job(log, scope, job_id).status is JobStatus.COMPLETED,
            "the job is completed",
        )
    job = load_job(log, scope, job_id)
    assert (job.processed, job.succeeded, job.failed) == (ITEMS, ITEMS, 0)
    assert count_changes(database, scope) == Counter(ids)
    engine.catch_up()
    assert_tables_match_log(database)


def test_job_of_a_killed_worker_is_taken_over_by_another(
    urls: Urls, log: EventLog, scope: Scope, database: Connection, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        outputs = [tmp_path / f"{number}.log" for number in range(WORKERS)]
        workers = [stack.enter_context(running_worker(urls, output)) for output in outputs]
        wait_until(
            lambda: all("working on jobs" in output.read_text("utf-8") for output in outputs),
            "both workers have started",
        )
        job_id, ids = request_bulk(log, scope, LARGE_JOB_ITEMS)
        wait_until(lambda: load_job(log, scope, job_id).processed > 0, "the job has done a step")
        holder = _find_holder(database, workers)
        holder.kill()
        holder.wait()
        assert load_job(log, scope, job_id).status is JobStatus.RUNNING
        wait_until(
            lambda: load_job(log, scope, job_id).status is JobStatus.COMPLETED,
            "the job is completed",
        )
    assert count_changes(database, scope) == Counter(ids)


def _find_holder(
    database: Connection, workers: list[subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    """Return the worker that holds the job."""
    found: list[subprocess.Popen[bytes]] = []

    def is_found() -> bool:
        ports = {row[0] for row in database.execute(HOLDERS)}
        found[:] = [
            each
            for each in workers
            if ports & {c.laddr.port for c in psutil.Process(each.pid).net_connections("tcp")}
        ]
        return bool(found)

    wait_until(is_found, "one of the workers holds the job")
    return found[0]
