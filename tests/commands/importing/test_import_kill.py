"""Workers killed by SIGKILL during an import: no row is imported twice, none is lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from uuid import UUID

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
from tests.support.processes import STOP_TIMEOUT_S, running_worker
from tests.support.waiting import wait_until

ROWS = 12_000
BAD_EVERY = 97
KILLS = 2

CREATED = """
SELECT data->'fields'->>'name' FROM events
 WHERE workspace_id = %s AND topic = 'contact.created' ORDER BY position
"""


def names() -> list[str]:
    return [f"Contact {number}" for number in range(ROWS)]


def is_bad(number: int) -> bool:
    return number % BAD_EVERY == 0


def write(path: Path) -> None:
    """Write accounts with three contacts each; some contacts have an invalid address."""
    lines = ["company,type,contactName,contactEmail"]
    for number, name in enumerate(names()):
        email = "nowhere" if is_bad(number) else f"c{number}@example.com"
        lines.append(f"Firm {number // 3},customer,{name},{email}")
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_killed_workers_import_every_row_once(
    urls: Urls,
    engine: ProjectionEngine,
    log: EventLog,
    workspace: UUID,
    database: Connection,
    tmp_path: Path,
) -> None:
    engine.catch_up()
    path = tmp_path / "firms.csv"
    write(path)
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

    def job() -> Job:
        with log.scoped(scope):
            return log.load(Job, job_id)

    def has_progressed(before: int) -> bool:
        return job().processed > before

    for _ in range(KILLS):
        before = job().processed
        with running_worker(urls, tmp_path / "worker.log") as process:
            wait_until(partial(has_progressed, before), "the import has made progress")
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        assert job().is_open
    settings = Settings(app_url=urls.app, home=tmp_path)
    with open_writing(settings) as writing:
        open_worker(settings, writing).run_once()

    done = job()
    bad = [number for number in range(ROWS) if is_bad(number)]
    good = [name for number, name in enumerate(names()) if not is_bad(number)]
    assert (done.status, done.processed) == (JobStatus.COMPLETED, ROWS)
    assert (done.succeeded, done.failed) == (len(good), len(bad))
    assert [row[0] for row in database.execute(CREATED, (workspace,))] == good
    failed = imports.failed_rows(scope, import_id, 0, ROWS)
    assert [each.row for each in failed] == [number + 2 for number in bad]
    firms = database.execute(
        """SELECT count(*), count(DISTINCT data->'fields'->>'company') FROM events
            WHERE workspace_id = %s AND topic = 'account.created'""",
        (workspace,),
    ).fetchone()
    assert firms == (len({number // 3 for number in range(ROWS) if not is_bad(number)}),) * 2
    ids = database.execute(
        "SELECT DISTINCT metadata->>'commandId' FROM events WHERE workspace_id = %s", (workspace,)
    ).fetchall()
    assert ids == [(str(import_id),)]
