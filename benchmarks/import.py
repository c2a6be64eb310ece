# ruff: noqa: N999 - benchmarks are named after what they measure
"""The rate and the memory of importing files of accounts: of 5, 10 and 22 columns.

    python -m benchmarks.import [--rows 50000] [--few 10000]

The file is uploaded as over HTTP, and a worker process imports its rows as a job: every row is
validated, deduplicated by company, and recorded as events. Files of 10 and 22 columns have a
contact in each row. The same run also measures COPY of the file into one table of text columns, and
COPY of the recorded events into a table with the indexes of the log. CPU time is that of the worker
and of the process in which it plans rows, memory (the largest resident set) that of the worker.
Each file gets a new worker, and memory should not grow with the file.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import psutil
import psycopg

from benchmarks.generated import database
from commands.importing.commands import ImportCommands
from commands.importing.files import LocalFile
from commands.importing.mapping import DateOrders
from commands.jobs.requests import JobCommands
from domain.job import Job, JobStatus
from eventlog.clock import local_time
from eventlog.retries import poll_until
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from runtime.composition import Writing, new_id, open_writing
from runtime.settings import REPOSITORY, Settings
from server.cli.local.importing import upload_file

CUSTOM_COLUMNS = tuple(f"Own {number}" for number in range(1, 11))
COLUMNS = (
    *("company", "type", "status", "priority", "nextAction", "sector", "region"),
    *("contactName", "contactEmail", "contactPhone", "dealValue", "nextActionDate"),
    *CUSTOM_COLUMNS,
)
WIDTHS = (5, 10, 22)
"""The first this many columns."""
SECTORS = ("retail", "technology", "health", "energy", "finance")
ROWS_PER_REPEAT = 5
"""One row of this number repeats the previous row's company, with another contact."""
READY = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'annals-work' LIMIT 1"
WAIT_S = 1_800.0
POLL_S = 0.25
KIB = 1_024


@dataclass(frozen=True)
class Measured:
    """The import of one file."""

    uploaded_s: float
    took_s: float
    cpu_s: float
    """CPU time of the worker and of its process that plans rows."""
    peak_mib: float
    workspace_id: UUID


def write_file(path: Path, rows: int, width: int) -> None:
    """Write accounts as CSV, with the first columns."""
    rng = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS[:width])
        company = ""
        for number in range(rows):
            if number % ROWS_PER_REPEAT != ROWS_PER_REPEAT - 1:
                company = f"Firm {number} {rng.choice(SECTORS).title()} GmbH"
            first, last = f"Ada{rng.randrange(999)}", f"Lovelace{rng.randrange(99_999)}"
            cells = (
                *(company, "customer", rng.choice(("active", "Prospect", "On hold"))),
                *(rng.choice(("low", "medium", "high")), f"Call about offer {number}"),
                *(rng.choice(SECTORS), rng.choice(("emea", "apac"))),
                *(f"{first} {last}", f"{first}.{number}@example.com", f"+44 20 {number:07}"),
                *(f"{rng.randrange(99_999)}.50", f"2026-03-{rng.randrange(1, 29):02}"),
                *(f"value {number % 10} of {name}" for name in CUSTOM_COLUMNS),
            )
            writer.writerow(cells[:width])


def measure_copy_s(url: str, path: Path, width: int) -> float:
    """Return the seconds for COPY of the file into one table of text columns."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS read.bare")
        names = ", ".join(f'"{name}" text' for name in COLUMNS[:width])
        connection.execute(f"CREATE TABLE read.bare ({names})")
        started = time.monotonic()
        with (
            path.open("rb") as file,
            connection.cursor() as cursor,
            cursor.copy("COPY read.bare FROM STDIN (FORMAT csv, HEADER)") as copy,
        ):
            while block := file.read(65_536):
                copy.write(block)
        return time.monotonic() - started


def measure_events_copy_s(url: str, workspace_id: UUID) -> tuple[int, float]:
    """Return the number of the workspace's events and the seconds for COPY of them."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('annals.workspace_id', %s, true)", (str(workspace_id),))
        cursor.execute("CREATE TABLE bare_events (LIKE events INCLUDING INDEXES)")
        statement = "COPY (SELECT * FROM events WHERE workspace_id = %s) TO STDOUT"
        with cursor.copy(statement, (workspace_id,)) as copy:
            content = b"".join(bytes(block) for block in copy)
        started = time.monotonic()
        with cursor.copy("COPY bare_events FROM STDIN") as copy:
            copy.write(content)
        took_s, events = time.monotonic() - started, cursor.rowcount
        connection.rollback()
    return events, took_s


@contextmanager
def worker(settings: Settings) -> Iterator[int]:
    """Run a worker process; give its pid."""
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "ANNALS_APP_URL": str(settings.app_url),
        "ANNALS_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-P", "-m", "server.cli", "work"], env=environment)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def peak_mib(pid: int) -> float:
    """Return the largest resident set of the process in MiB, or 0 if the system has no /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) / KIB


def run(settings: Settings, writing: Writing, path: Path) -> Measured:
    """Upload and import the file."""
    scope = Scope(uuid4(), command="import", command_id=str(new_id()))
    jobs = JobCommands(writing.log, clock=local_time, new_id=new_id)
    imports = ImportCommands(writing.log, jobs, clock=local_time, new_id=new_id)
    ProjectionEngine(str(settings.projector_url), PROJECTIONS.values()).catch_up()
    started = time.monotonic()
    import_id = imports.begin_upload(scope, "accounts", path.name)
    size_bytes = upload_file(imports, scope, import_id, 1, LocalFile(path))
    file = imports.inspect(scope, import_id, 1, path.name, size_bytes)
    imports.finish_upload(scope, "accounts", file)
    imports.change_options(scope, import_id, lambda each: {**each.options, "dedupeBy": ["company"]})
    uploaded_s = time.monotonic() - started
    with worker(settings) as pid:
        _wait_for_worker(settings)
        process = psutil.Process(pid)
        cpu_before_s = sum(process.cpu_times()[:4])  # with children that have ended
        started = time.monotonic()
        job_id = imports.start(scope, import_id, DateOrders()).job.id
        if not poll_until(lambda: not _load_job(writing, scope, job_id).is_open, WAIT_S, POLL_S):
            raise TimeoutError("the import has not ended")
        took_s = time.monotonic() - started
        cpu_s, peak = sum(process.cpu_times()[:4]) - cpu_before_s, peak_mib(pid)
    job = _load_job(writing, scope, job_id)
    if job.status is not JobStatus.COMPLETED or job.failed:
        raise RuntimeError(f"{job.status}: {job.failed} rows failed")
    return Measured(uploaded_s, took_s, cpu_s, peak, scope.workspace_id)


def _wait_for_worker(settings: Settings) -> None:
    """Wait until the worker looks for jobs, so that its start is not measured."""
    with psycopg.connect(str(settings.app_url), autocommit=True) as connection:
        if not poll_until(lambda: connection.execute(READY).fetchone() is not None, WAIT_S, POLL_S):
            raise TimeoutError("the worker does not start")


def _load_job(writing: Writing, scope: Scope, job_id: UUID) -> Job:
    with writing.log.scoped(scope):
        return writing.log.load(Job, job_id)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--few", type=int, default=10_000)
    given = parser.parse_args()
    with TemporaryDirectory() as folder, database() as urls:
        settings = Settings(
            owner_url=urls.owner, app_url=urls.app, projector_url=urls.projector, home=Path(folder)
        )
        with open_writing(settings) as writing:
            files = [(given.few, 10), *((given.rows, width) for width in WIDTHS)]
            for rows, width in files:
                path = Path(folder) / f"{rows}-{width}.csv"
                write_file(path, rows, width)
                took = run(settings, writing, path)
                copied_s = measure_copy_s(urls.projector, path, width)
                events, events_s = measure_events_copy_s(urls.owner, took.workspace_id)
                print(
                    f"{rows:>8,} rows  {width:>2} columns  uploaded {took.uploaded_s:.1f} s"
                    f"  imported {took.took_s:.1f} s  {rows / took.took_s:,.0f} rows/s"
                    f"  {took.cpu_s / rows * 1e6:.0f} us of CPU a row  {took.peak_mib:.0f} MiB"
                    f"  COPY of the file {took.took_s / copied_s:.0f} times as fast"
                    f"  COPY of its {events:,} events {took.took_s / events_s:.1f} times",
                    flush=True,
                )
        started = time.monotonic()
        ProjectionEngine(str(urls.projector), PROJECTIONS.values()).catch_up()
        print(f"read tables of the last file: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
