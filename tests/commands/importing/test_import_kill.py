"""Workers killed by SIGKILL during an import: no row is imported twice, none is lost."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from commands.importing.ahead import BATCH_ROWS, PROCESS
from commands.importing.commands import ImportCommands
from commands.importing.files import LocalFile
from commands.importing.mapping import DateOrders
from commands.jobs.requests import JobCommands
from domain.job import Job, JobStatus
from eventlog.clock import local_time
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from runtime.composition import new_id, open_writing
from runtime.settings import Settings
from server.cli.local.importing import upload_file
from server.processes.worker import open_worker
from tests.support.databases import Urls
from tests.support.processes import STOP_TIMEOUT_S, command_line_of, running_worker
from tests.support.waiting import wait_until

ROWS = 12_000
MANY_ROWS = 30_000
"""Rows that take several times as long as the start of a process that plans them."""
BAD_EVERY = 97
KILLS = 2

CREATED = """
SELECT data->'fields'->>'name' FROM events
 WHERE workspace_id = %s AND topic = 'contact.created' ORDER BY position
"""


def names(rows: int) -> list[str]:
    return [f"Contact {number}" for number in range(rows)]


def is_bad(number: int) -> bool:
    return number % BAD_EVERY == 0


def write(path: Path, rows: int) -> None:
    """Write accounts with three contacts each; some contacts have an invalid address."""
    lines = ["company,type,contactName,contactEmail"]
    for number, name in enumerate(names(rows)):
        email = "nowhere" if is_bad(number) else f"c{number}@example.com"
        lines.append(f"Firm {number // 3},customer,{name},{email}")
    path.write_text("\n".join(lines) + "\n", "utf-8")


@dataclass(frozen=True)
class Started:
    """An import of such a file that was started."""

    log: EventLog
    imports: ImportCommands
    scope: Scope
    id: UUID
    job_id: UUID
    rows: int

    def job(self) -> Job:
        with self.log.scoped(self.scope):
            return self.log.load(Job, self.job_id)

    def has_progressed(self, after: int) -> bool:
        return self.job().processed > after

    def require_every_row_once(self, database: Connection) -> None:
        done, workspace = self.job(), self.scope.workspace_id
        bad = [number for number in range(self.rows) if is_bad(number)]
        good = [name for number, name in enumerate(names(self.rows)) if not is_bad(number)]
        assert (done.status, done.processed) == (JobStatus.COMPLETED, self.rows)
        assert (done.succeeded, done.failed) == (len(good), len(bad))
        assert [row[0] for row in database.execute(CREATED, (workspace,))] == good
        failed = self.imports.failed_rows(self.scope, self.id, 0, self.rows)
        assert [each.row for each in failed] == [number + 2 for number in bad]
        firms = database.execute(
            """SELECT count(*), count(DISTINCT data->'fields'->>'company') FROM events
                WHERE workspace_id = %s AND topic = 'account.created'""",
            (workspace,),
        ).fetchone()
        expected = len({number // 3 for number in range(self.rows) if not is_bad(number)})
        assert firms == (expected, expected)
        ids = database.execute(
            "SELECT DISTINCT metadata->>'commandId' FROM events WHERE workspace_id = %s",
            (workspace,),
        ).fetchall()
        assert ids == [(str(self.id),)]


def start(
    engine: ProjectionEngine, log: EventLog, workspace: UUID, path: Path, rows: int
) -> Started:
    """Write, upload and start to import a file."""
    engine.catch_up()
    write(path, rows)
    scope = Scope(workspace)
    imports = ImportCommands(
        log, JobCommands(log, clock=local_time, new_id=new_id), clock=local_time, new_id=new_id
    )
    import_id = imports.begin_upload(scope, "accounts", path.name)
    size_bytes = upload_file(imports, scope, import_id, 1, LocalFile(path))
    file = imports.inspect(scope, import_id, 1, path.name, size_bytes)
    imports.finish_upload(scope, "accounts", file)
    imports.change_options(scope, import_id, lambda each: {**each.options, "dedupeBy": ["company"]})
    job_id = imports.start(scope, import_id, DateOrders()).job.id
    return Started(log, imports, scope, import_id, job_id, rows)


def test_killed_workers_import_every_row_once(
    urls: Urls,
    engine: ProjectionEngine,
    log: EventLog,
    workspace: UUID,
    database: Connection,
    tmp_path: Path,
) -> None:
    started = start(engine, log, workspace, tmp_path / "firms.csv", ROWS)
    for _ in range(KILLS):
        before = started.job().processed
        with running_worker(urls, tmp_path / "worker.log") as process:
            wait_until(partial(started.has_progressed, before), "the import has made progress")
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        assert started.job().is_open
    settings = Settings(app_url=urls.app, home=tmp_path)
    with open_writing(settings) as writing:
        open_worker(settings, writing).run_once()
    started.require_every_row_once(database)


def planners() -> list[psutil.Process]:
    """The processes of this one that plan rows."""
    return [
        psutil.Process(each.pid)
        for each in multiprocessing.active_children()
        if each.name == PROCESS
    ]


@pytest.mark.parametrize("is_planning", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_rows_are_imported_once_although_the_process_that_plans_them_fails(
    urls: Urls,
    engine: ProjectionEngine,
    log: EventLog,
    workspace: UUID,
    database: Connection,
    tmp_path: Path,
    number: signal.Signals,
    is_planning: bool,
) -> None:
    started = start(engine, log, workspace, tmp_path / "firms.csv", MANY_ROWS)
    settings = Settings(app_url=urls.app, home=tmp_path)
    with open_writing(settings) as writing:
        thread = threading.Thread(target=open_worker(settings, writing).run_once)
        thread.start()
        wait_until(lambda: len(planners()) == 1, "the process is starting")
        (planner,) = planners()
        if is_planning:
            wait_until(lambda: planner.num_threads() > 1, "the process is ready")
            after = started.job().processed + 2 * BATCH_ROWS
            wait_until(partial(started.has_progressed, after), "the process has planned rows")
        assert started.job().is_open
        planner.send_signal(number)
        thread.join()
    assert not planner.is_running()
    started.require_every_row_once(database)


def test_the_process_that_plans_rows_ends_with_the_worker(
    urls: Urls, engine: ProjectionEngine, log: EventLog, workspace: UUID, tmp_path: Path
) -> None:
    started = start(engine, log, workspace, tmp_path / "firms.csv", MANY_ROWS)
    with running_worker(urls, tmp_path / "worker.log") as worker:
        process = psutil.Process(worker.pid)
        wait_until(lambda: any(map(is_planner, process.children())), "the process is starting")
        (planner,) = filter(is_planner, process.children())
        wait_until(lambda: planner.num_threads() > 1, "the process is ready")
        worker.kill()
        worker.wait(STOP_TIMEOUT_S)
    assert started.job().is_open
    wait_until(lambda: not planner.is_running(), "the process has ended")


def is_planner(process: psutil.Process) -> bool:
    """Whether it is a process that was started by Python's multiprocessing, and not its tracker."""
    return any("spawn_main" in each for each in command_line_of(process))
