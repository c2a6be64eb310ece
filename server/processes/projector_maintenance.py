"""Background duties of a projector process: count work, log progress, check coverage, run jobs.

They run in threads with separate connections, so that projecting neither waits for them nor fails
with them. Among several projectors, one at a time leads the jobs and one the checks.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from eventlog.connections import Connection, follow_connection
from eventlog.retries import retry_until_stopped, seldom
from projections.engine.jobs import queue
from projections.engine.jobs.queue import ProjectionJob
from projections.engine.jobs.refusals import ProjectionJobInProgress
from projections.engine.jobs.requests import request_job
from projections.engine.ledger.checks import check
from projections.engine.live.statistics import BatchTotals, WorkStatistics
from projections.engine.registry import versions
from readmodels import table_definitions
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings

log = logging.getLogger("annals.projector")

JOB_POLL_INTERVAL_S = 1.0
"""Interval at which waiting jobs are read and counts are stored."""
CHECK_INTERVAL_S = 10.0
"""Interval at which coverage ledgers are compared with the log; the longest delay of an alarm."""
REPORT_INTERVAL_S = 10.0
"""Interval at which a working projector logs its progress."""
RECONNECT_DELAY_S = 1.0
JOBS_MAX = 4
"""Maximum number of jobs at once. Only one may be a rebuild or a check, which use all cores."""
JOB_STOP_WAIT_S = 3.0
STOP_WAIT_S = 5.0

SELECT_POSITIONS = "SELECT name, position FROM projections WHERE name NOT LIKE '%:%' ORDER BY name"
SELECT_VERSIONS = "SELECT name, version FROM projections WHERE name NOT LIKE '%:%' ORDER BY name"


class ProjectorMaintenance:
    """The background threads of a projector, within a `with` block."""

    def __init__(
        self,
        settings: Settings,
        work: WorkStatistics,
        *,
        check_interval_s: float = CHECK_INTERVAL_S,
    ) -> None:
        self._url = str(settings.projector_url)
        self._work = work
        self._reported = BatchTotals()
        self._reported_at = time.monotonic()
        self._jobs = JobProcesses()
        self._versions = versions(table_definitions())
        self._rebuilds_changed = settings.rebuild_changed
        self._requested: set[str] = set()
        self._stopped = threading.Event()
        self._threads = [
            self._make_thread("jobs", JOB_POLL_INTERVAL_S, self._run_jobs),
            self._make_thread("checks", check_interval_s, self._check_coverage),
        ]

    def __enter__(self) -> ProjectorMaintenance:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(STOP_WAIT_S)

    def _make_thread(
        self, duty: str, interval_s: float, act: Callable[[Connection, bool], None]
    ) -> threading.Thread:
        def run() -> None:
            retry_until_stopped(
                lambda: self._repeat(duty, interval_s, act),
                self._stopped,
                errors=(psycopg.Error, OSError),
                delay_s=RECONNECT_DELAY_S,
                on_error=seldom(lambda error: log.warning("%s are interrupted: %s", duty, error)),
            )

        return threading.Thread(target=run, name=f"annals-{duty}", daemon=True)

    def _repeat(
        self, duty: str, interval_s: float, act: Callable[[Connection, bool], None]
    ) -> None:
        """Call `act` with a connection, and whether this process leads the duty, until stopped."""
        with follow_connection(self._url, application_name=f"annals-{duty}") as connection:
            is_leader = False
            try:
                while not self._stopped.is_set():
                    is_leader = is_leader or queue.is_leader(connection, duty)
                    act(connection, is_leader)
                    self._stopped.wait(interval_s)
            finally:
                if duty == "jobs":
                    self._jobs.stop()
                    if self._stopped.is_set():
                        self._store_counts(connection)

    def _run_jobs(self, connection: Connection, is_leader: bool) -> None:
        self._store_counts(connection)
        if is_leader:
            if self._rebuilds_changed:
                self._request_rebuilds(connection)
            self._jobs.update(connection)

    def _request_rebuilds(self, connection: Connection) -> None:
        """Request a rebuild, once by this process, of each projection that other code made."""
        definitions = table_definitions()
        made_by: dict[str, str] = dict(connection.execute(SELECT_VERSIONS).fetchall())
        for name, code in versions(definitions).items():
            if name in self._requested or made_by.get(name, code) == code:
                continue
            self._requested.add(name)
            with suppress(ProjectionJobInProgress):
                asked_by = "ANNALS_REBUILD_CHANGED"
                request_job(connection, name, "rebuild", definitions[name], requested_by=asked_by)
                log.warning("projection %s was made by other code and is rebuilt", name)

    def _store_counts(self, connection: Connection) -> None:
        self._reported.add(self._work.flush(connection))
        now = time.monotonic()
        is_due = now - self._reported_at >= REPORT_INTERVAL_S or self._stopped.is_set()
        if not (is_due and self._reported.batches):
            return
        facts = {
            "events": self._reported.events,
            "batches": self._reported.batches,
            "busySeconds": round(self._reported.seconds, 3),
            "positions": dict(connection.execute(SELECT_POSITIONS).fetchall()),
        }
        log.info("projected", extra={"facts": facts})
        self._reported, self._reported_at = BatchTotals(), now

    def _check_coverage(self, connection: Connection, is_leader: bool) -> None:
        if not is_leader:
            return
        found = check(connection, versions=self._versions)
        for gap in found.new:
            facts = {"projection": gap.projection, "fault": gap.fault, "position": gap.position}
            log.error("coverage differs from the log: %s", gap, extra={"facts": facts})
        for gap in found.gone:
            log.info("coverage equals the log again: %s", gap)


class JobProcesses:
    """The processes of the running jobs. Not thread-safe."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[ProjectionJob, subprocess.Popen[bytes]]] = {}

    def update(self, connection: Connection) -> None:
        """Record the jobs that have ended, and start the jobs that wait."""
        self._collect_ended(connection)
        for job_id, projection, state in queue.fail_orphaned(connection, self._running):
            facts = {"job": job_id, "projection": projection, "state": state}
            log.warning("the process of a job is gone", extra={"facts": facts})
        for job in queue.load_requested(connection):
            if job.id not in self._running and self._has_room(job):
                self._running[job.id] = (job, _start(job))

    def stop(self) -> None:
        """End the processes. The next leader records their jobs as failed."""
        for _, process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + JOB_STOP_WAIT_S
        for _, process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _collect_ended(self, connection: Connection) -> None:
        for job_id, (job, process) in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            del self._running[job_id]
            # The outcome that the process recorded itself is kept.
            summary = "" if code == 0 else f"its process ended with exit code {code}"
            if code != 0 and queue.is_open(connection, job_id):
                queue.end(connection, job_id, "failed", summary=summary)
                log.error("job %s: %s", job_id, summary, extra={"facts": {"job": job.id}})

    def _has_room(self, job: ProjectionJob) -> bool:
        running = [other for other, _ in self._running.values()]
        heavy = ("rebuild", "verify")
        is_second_rebuild = job.kind in heavy and any(other.kind in heavy for other in running)
        return len(running) < JOBS_MAX and not is_second_rebuild


def _start(job: ProjectionJob) -> subprocess.Popen[bytes]:
    """Start a job in its own process group; the process ends with this one."""
    environment = {
        **os.environ,
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-P", "-m", "server.cli", "job", str(job.id)]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
