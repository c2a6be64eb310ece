"""The worker: claims open jobs of all workspaces and runs them one after the other.

Several workers share the jobs. A claim is a session-level advisory lock: it is released when the
process ends, however that happens, and another worker continues the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from commands.jobs.job_store import JOBS_CHANNEL
from commands.jobs.runs import CONNECTION_LOST, SLICE_S, JobEnvironment, JobRun
from eventlog.connections import Connection, follow_connection
from eventlog.hints import wait_for_hint
from eventlog.locks import JOB_LOCK, one_key
from eventlog.retries import retry_until_stopped, seldom

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
"""The pause after which a worker looks for jobs without a hint, such as a crashed worker's."""
RETRY_DELAY_S = 1.0
"""The pause before a worker connects again to a lost database."""
FAILED_RUN_PAUSE_S = 10.0
"""The time for which a worker does not claim a job again after a run that failed."""
CANDIDATES_MAX = 200
"""Maximum number of open jobs that a worker tries to claim at a time."""
PURGE_INTERVAL_S = 3_600.0
ERRORS_KEPT_DAYS = 30
"""Retention of job errors."""

# Open jobs of these kinds: one of each workspace, then a second one of each, and so on, those with
# the oldest run first.
SELECT_OPEN_JOBS = "SELECT workspace_id, job_id FROM jobs_to_do(%s, %s)"
# Delete job errors that are older than this number of days.
PURGE_ERRORS = "SELECT purge_job_errors(%s)"
TRY_CLAIM = f"SELECT pg_try_advisory_lock({one_key(JOB_LOCK)})"
RELEASE = f"SELECT pg_advisory_unlock({one_key(JOB_LOCK)})"


class Worker:
    """Runs jobs until stopped. Uses one thread; `stop` may be called from another."""

    def __init__(
        self,
        app_url: str,
        environment: JobEnvironment,
        *,
        poll_interval_s: float = POLL_INTERVAL_S,
        slice_s: float = SLICE_S,
    ) -> None:
        self._url = app_url
        self._environment = environment
        self._poll_interval_s = poll_interval_s
        self._slice_s = slice_s
        self._stopped = threading.Event()
        self._paused_until_s: dict[UUID, float] = {}
        self._served: dict[UUID, int] = {}
        """By workspace: the number of the last run that this worker gave it."""
        self._runs = 0
        self._purge_at_s = 0.0

    def stop(self) -> None:
        """Have `run` return after the current step."""
        self._stopped.set()

    def run(self) -> None:
        """Work until stopped. A lost connection to the database is logged and opened again."""
        retry_until_stopped(
            self._work_until_stopped,
            self._stopped,
            errors=CONNECTION_LOST,
            delay_s=RETRY_DELAY_S,
            on_error=seldom(_log_lost_connection),
        )

    def run_once(self) -> None:
        """Work until no open job can be claimed."""
        with follow_connection(self._url, application_name="annals-work") as claims:
            while self.run_slice(claims):
                pass

    def run_slice(self, claims: Connection) -> bool:
        """Run a job of the workspace that this worker served the longest ago, so that no workspace
        waits for all jobs of another one; return False if none can be claimed.
        """
        for workspace_id, job_id in self._candidates(claims):
            with claim_job(claims, workspace_id, job_id) as is_ours:
                if is_ours:
                    self._runs += 1
                    self._served[workspace_id] = self._runs
                    self._run_job(workspace_id, job_id)
                    return True
        return False

    def _work_until_stopped(self) -> None:
        with follow_connection(self._url, application_name="annals-work") as claims:
            claims.execute(f"LISTEN {JOBS_CHANNEL}")
            while not self._stopped.is_set():
                self._purge_errors(claims)
                if not self.run_slice(claims):
                    wait_for_hint(claims, self._poll_interval_s)

    def _run_job(self, workspace_id: UUID, job_id: UUID) -> None:
        try:
            job_run = JobRun(self._environment, workspace_id, job_id)
            job_run.run(slice_s=self._slice_s, stop=self._stopped.is_set)
        except CONNECTION_LOST:
            raise
        except Exception:
            # The job stays open: another worker, or a later version, may succeed.
            log.exception("a run of job %s failed", job_id)
            self._paused_until_s[job_id] = time.monotonic() + FAILED_RUN_PAUSE_S

    def _candidates(self, claims: Connection) -> list[tuple[UUID, UUID]]:
        now_s = time.monotonic()
        self._paused_until_s = {
            job: until_s for job, until_s in self._paused_until_s.items() if until_s > now_s
        }
        parameters = (list(self._environment.factories), CANDIDATES_MAX)
        rows = claims.execute(SELECT_OPEN_JOBS, parameters).fetchall()
        found = [(UUID(workspace), UUID(job)) for workspace, job in rows]
        workspaces = {workspace for workspace, _ in found}
        self._served = {each: run for each, run in self._served.items() if each in workspaces}
        found.sort(key=lambda each: self._served.get(each[0], 0))
        return [each for each in found if each[1] not in self._paused_until_s]

    def _purge_errors(self, claims: Connection) -> None:
        if time.monotonic() >= self._purge_at_s:
            self._purge_at_s = time.monotonic() + PURGE_INTERVAL_S
            claims.execute(PURGE_ERRORS, (ERRORS_KEPT_DAYS,))


@contextmanager
def claim_job(claims: Connection, workspace_id: UUID, job_id: UUID) -> Iterator[bool]:
    """Claim the job while the block runs. Yields False if another session has claimed it."""
    name = f"{workspace_id} {job_id}"
    is_ours = _call_lock_function(claims, TRY_CLAIM, name)
    try:
        yield is_ours
    finally:
        if is_ours:
            _call_lock_function(claims, RELEASE, name)


def _log_lost_connection(error: BaseException) -> None:
    log.warning("work on jobs stopped and is retried: %s", error)


def _call_lock_function(claims: Connection, statement: str, name: str) -> bool:
    row = claims.execute(statement, (name,)).fetchone()
    return bool(row and row[0])
