"""kill -9 of workers in the middle of jobs: others go on, no item twice, none lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import UUID, uuid4

import psutil

from commands.jobs.requests import JobCommands
from domain.account import Account
from domain.job import Job, JobStatus
from domain.shared.entity import Entity
from eventlog.connections import Connection
from eventlog.locks import JOB_LOCK
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY
from tests.conftest import Urls
from tests.support.oracle import assert_tables_tell_history
from tests.support.processes import END_WAIT_S, WAIT_S, until

ITEMS = 300
STEP = 20
DEATHS = [("writing", 1), ("committed", 2), ("writing", 3), ("committed", 1)]
"""When a worker dies, and in which of its steps."""
MANY = 5_000
"""So many that a worker can be met in the middle of them."""
WORKERS = 2

HOLDERS = f"""
SELECT a.client_port FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND l.classid::bigint >> 24 = {JOB_LOCK}
   AND l.objsubid = 1 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def worker(urls: Urls, output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as a process: `annals work`, or a module with arguments."""
    command = arguments or ("server.cli", "work")
    environment = {
        **os.environ,
        "ANNALS_APP_URL": urls.app,
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command], env=environment, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def bulk(log: EventLog, scope: Scope, items: int) -> tuple[UUID, list[UUID]]:
    """A job that makes so many accounts important, and their ids."""
    ids = [uuid4() for _ in range(items)]
    made = (
        Account.create(
            each, scope.workspace_id, {"company": "A", "type": "partner"}, at=datetime.now(UTC)
        )
        for each in ids
    )
    with log.scoped(Scope(scope.workspace_id)):
        while chunk := list[Entity](islice(made, 1_000)):
            log.append(*chunk)
    jobs = JobCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)
    parameters = {"kind": "account", "change": {"set": {"priority": "high"}}}
    asked = jobs.request(scope, "bulk", parameters, items=map(str, ids))
    return asked.job.id, ids


def job_of(log: EventLog, scope: Scope, job_id: UUID) -> Job:
    with log.scoped(scope):
        return log.load(Job, job_id)


def changed(database: Connection, scope: Scope) -> Counter[UUID]:
    """How often each account was changed by the command, says the log."""
    rows = database.execute(
        "SELECT stream_id FROM events WHERE workspace_id = %s AND topic = 'account.updated'"
        " AND metadata->>'commandId' = %s",
        (scope.workspace_id, scope.command_id),
    )
    return Counter(row[0] for row in rows)


def test_a_job_goes_on_where_it_was_whenever_its_worker_died(
    urls: Urls,
    log: EventLog,
    scope: Scope,
    database: Connection,
    engine: ProjectionEngine,
    tmp_path: Path,
) -> None:
    job_id, ids = bulk(log, scope, ITEMS)
    expected = 0
    for when, step in DEATHS:
        output = tmp_path / "worker.log"
        with worker(
            urls, output, "tests.support.dying_worker", when, str(step), str(STEP)
        ) as process:
            assert process.wait(WAIT_S) == -signal.SIGKILL, output.read_text("utf-8")
        expected += STEP * (step if when == "committed" else step - 1)
        until(lambda: not database.execute(HOLDERS).fetchall())
        job = job_of(log, scope, job_id)
        assert (job.status, job.processed) == (JobStatus.RUNNING, expected)
        # What is counted is what was done: they are of one transaction.
        assert changed(database, scope) == Counter(ids[:expected])
    with worker(urls, tmp_path / "last.log"):
        until(lambda: job_of(log, scope, job_id).status is JobStatus.COMPLETED)
    job = job_of(log, scope, job_id)
    assert (job.processed, job.succeeded, job.failed) == (ITEMS, ITEMS, 0)
    assert changed(database, scope) == Counter(ids)
    engine.catch_up()
    assert_tables_tell_history(database)


def test_a_killed_workers_job_is_taken_over_by_another(
    urls: Urls, log: EventLog, scope: Scope, database: Connection, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        outputs = [tmp_path / f"{number}.log" for number in range(WORKERS)]
        alive = [stack.enter_context(worker(urls, output)) for output in outputs]
        until(lambda: all("working on jobs" in output.read_text("utf-8") for output in outputs))
        job_id, ids = bulk(log, scope, MANY)
        until(lambda: job_of(log, scope, job_id).processed > 0)
        holder = _holder(database, alive)
        holder.kill()
        holder.wait()
        assert job_of(log, scope, job_id).status is JobStatus.RUNNING
        until(lambda: job_of(log, scope, job_id).status is JobStatus.COMPLETED)
    assert changed(database, scope) == Counter(ids)


def _holder(
    database: Connection, workers: list[subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    """The worker that has the job."""
    found: list[subprocess.Popen[bytes]] = []

    def is_found() -> bool:
        ports = {row[0] for row in database.execute(HOLDERS)}
        found[:] = [
            each
            for each in workers
            if ports & {c.laddr.port for c in psutil.Process(each.pid).net_connections("tcp")}
        ]
        return bool(found)

    until(is_found)
    return found[0]
