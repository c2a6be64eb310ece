"""What a projector process does beside projecting: count, say how far it is, check, do jobs.

In threads with connections of their own, so that projecting neither waits for them nor ends with
them. Of several projectors, one at a time has the jobs and one the checks.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psycopg

from eventlog.connections import Connection, follow_connection
from projections.engine.ledger.checks import check
from projections.engine.live.statistics import Sum, WorkStatistics
from projections.engine.rebuild import jobs
from projections.engine.rebuild.jobs import ProjectionJob
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings

log = logging.getLogger("annals.projector")

LOOK_INTERVAL_S = 1.0
"""How often is looked for jobs, and counts are written down."""
CHECK_INTERVAL_S = 10.0
"""How often ledgers are compared with the log; an alarm comes no later than this."""
REPORT_INTERVAL_S = 10.0
"""How often a projector that works says how far it is."""
RECONNECT_DELAY_S = 1.0
JOBS_MAX = 4
"""Most jobs at once; of rebuilds, which take all cores, one at a time."""
JOB_STOP_WAIT_S = 3.0
STOP_WAIT_S = 5.0

SELECT_POSITIONS = "SELECT name, position FROM projections WHERE name NOT LIKE '%:%' ORDER BY name"


class ProjectorMaintenance:
    """The threads beside a projector, from entering the `with` block to leaving it."""

    def __init__(
        self,
        settings: Settings,
        work: WorkStatistics,
        *,
        check_interval_s: float = CHECK_INTERVAL_S,
    ) -> None:
        self._url = str(settings.projector_url)
        self._work = work
        self._reported = Sum()
        self._reported_at = time.monotonic()
        self._jobs = JobProcesses()
        self._stopped = threading.Event()
        self._threads = [
            self._thread("jobs", LOOK_INTERVAL_S, self._look),
            self._thread("checks", check_interval_s, self._check),
        ]

    def __enter__(self) -> ProjectorMaintenance:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(STOP_WAIT_S)

    def _thread(self, duty: str, interval_s: float, act: Callable[..., None]) -> threading.Thread:
        def run() -> None:
            while not self._stopped.is_set():
                try:
                    self._attend(duty, interval_s, act)
                except (psycopg.Error, OSError) as error:
                    log.warning("%s are not looked after for now: %s", duty, error)
                    self._stopped.wait(RECONNECT_DELAY_S)

        return threading.Thread(target=run, name=f"annals-{duty}", daemon=True)

    def _attend(self, duty: str, interval_s: float, act: Callable[..., None]) -> None:
        with follow_connection(self._url, application_name=f"annals-{duty}") as connection:
            has_duty = False
            try:
                while not self._stopped.is_set():
                    has_duty = has_duty or jobs.is_leader(connection, duty)
                    act(connection, has_duty)
                    self._stopped.wait(interval_s)
            finally:
                if duty == "jobs":
                    self._jobs.stop()
                    if self._stopped.is_set():
                        self._flush(connection)

    def _look(self, connection: Connection, has_duty: bool) -> None:
        self._flush(connection)
        if has_duty:
            self._jobs.step(connection)

    def _flush(self, connection: Connection) -> None:
        self._reported.add(self._work.flush(connection))
        now = time.monotonic()
        is_time = now - self._reported_at >= REPORT_INTERVAL_S or self._stopped.is_set()
        if not (is_time and self._reported.batches):
            return
        facts = {
            "events": self._reported.events,
            "batches": self._reported.batches,
            "busySeconds": round(self._reported.seconds, 3),
            "positions": dict(connection.execute(SELECT_POSITIONS).fetchall()),
        }
        log.info("projected", extra={"facts": facts})
        self._reported, self._reported_at = Sum(), now

    def _check(self, connection: Connection, has_duty: bool) -> None:
        if not has_duty:
            return
        found = check(connection)
        for gap in found.new:
            facts = {"projection": gap.projection, "fault": gap.fault, "position": gap.position}
            log.error("coverage differs from the log: %s", gap, extra={"facts": facts})
        for gap in found.gone:
            log.info("coverage is in order again: %s", gap)


class JobProcesses:
    """The processes of jobs under way. Not thread-safe."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[ProjectionJob, subprocess.Popen[bytes]]] = {}

    def step(self, connection: Connection) -> None:
        """See to what has ended, and begin what waits."""
        self._reap(connection)
        for job_id, projection, state in jobs.fail_orphaned(connection, self._running):
            facts = {"job": job_id, "projection": projection, "state": state}
            log.warning("a job was found dead", extra={"facts": facts})
        for job in jobs.waiting(connection):
            if job.id not in self._running and self._has_room(job):
                self._running[job.id] = (job, _start(job))

    def stop(self) -> None:
        """End the processes; what they were at is told to have failed by whoever comes next."""
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

    def _reap(self, connection: Connection) -> None:
        for job_id, (job, process) in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            del self._running[job_id]
            # Where the process wrote down how it ended, that stays.
            summary = "" if code == 0 else f"its process ended with exit code {code}"
            if code != 0 and jobs.is_open(connection, job_id):
                jobs.end(connection, job_id, "failed", summary=summary)
                log.error("job %s: %s", job_id, summary, extra={"facts": {"job": job.id}})

    def _has_room(self, job: ProjectionJob) -> bool:
        running = [other for other, _ in self._running.values()]
        is_second_rebuild = job.kind == "rebuild" and any(
            other.kind == "rebuild" for other in running
        )
        return len(running) < JOBS_MAX and not is_second_rebuild


def _start(job: ProjectionJob) -> subprocess.Popen[bytes]:
    """A process of its own group, which ends with this process."""
    environment = {
        **os.environ,
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-P", "-m", "server.cli", "job", str(job.id)]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
