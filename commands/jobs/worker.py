"""The worker: claims open jobs of all workspaces, one after the other, a turn each.

Several workers share the jobs. A claim is an advisory lock of a session: it goes with the process,
however that ends, and the next worker that looks goes on with the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from commands.jobs.keeping import HINT
from commands.jobs.turns import NO_CONNECTION, TURN_S, JobRun, Tools
from eventlog.connections import Connection, follow_connection
from eventlog.hints import wait_for_hint
from eventlog.locks import JOB_LOCK, one_key

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
"""How often a worker that hears no hint looks for jobs, those of workers that died among them."""
RETRY_DELAY_S = 1.0
"""How long a worker waits after the database was lost."""
REST_S = 10.0
"""How long a worker leaves a job alone on which a turn failed."""
LOOK_MAX = 200
"""Open jobs that are looked at for one that nobody works on."""
PURGE_INTERVAL_S = 3_600.0
ERRORS_KEPT_DAYS = 30
"""Errors of jobs are kept for so long."""

TO_DO = "SELECT workspace_id, job_id FROM jobs_to_do(%s, %s)"
PURGE = "SELECT purge_job_errors(%s)"
CLAIM = f"SELECT pg_try_advisory_lock({one_key(JOB_LOCK)})"
RELEASE = f"SELECT pg_advisory_unlock({one_key(JOB_LOCK)})"


class Worker:
    """Works on jobs until it is stopped. One thread; `stop` may be called from another."""

    def __init__(
        self,
        app_url: str,
        tools: Tools,
        *,
        poll_interval_s: float = POLL_INTERVAL_S,
        turn_s: float = TURN_S,
    ) -> None:
        self._url = app_url
        self._tools = tools
        self._poll_interval_s = poll_interval_s
        self._turn_s = turn_s
        self._stopped = threading.Event()
        self._rests: dict[UUID, float] = {}
        self._purge_at = 0.0

    def stop(self) -> None:
        """Finish the step at hand and return from `run`."""
        self._stopped.set()

    def run(self) -> None:
        """Work until stopped. A lost database is waited for, and said."""
        while not self._stopped.is_set():
            try:
                with follow_connection(self._url, application_name="annals-work") as claims:
                    claims.execute(f"LISTEN {HINT}")
                    while not self._stopped.is_set():
                        self._purge(claims)
                        if not self.run_slice(claims):
                            wait_for_hint(claims, self._poll_interval_s)
            except NO_CONNECTION as error:
                log.warning("working on jobs stopped and is tried again: %s", error)
                self._stopped.wait(RETRY_DELAY_S)

    def run_once(self) -> None:
        """Work until there is nothing to do that nobody else does."""
        with follow_connection(self._url, application_name="annals-work") as claims:
            while self.run_slice(claims):
                pass

    def run_slice(self, claims: Connection) -> bool:
        """Take the job that waits longest a turn further; False where there is none to be had."""
        for workspace_id, job_id in self._to_do(claims):
            with claimed(claims, workspace_id, job_id) as is_ours:
                if is_ours:
                    self._turn(workspace_id, job_id)
                    return True
        return False

    def _turn(self, workspace_id: UUID, job_id: UUID) -> None:
        try:
            turn = JobRun(self._tools, workspace_id, job_id)
            turn.take(turn_s=self._turn_s, stop=self._stopped.is_set)
        except NO_CONNECTION:
            raise
        except Exception:
            # It stays open and claimable: another worker, or a later version, may do better.
            log.exception("a turn on job %s failed", job_id)
            self._rests[job_id] = time.monotonic() + REST_S

    def _to_do(self, claims: Connection) -> list[tuple[UUID, UUID]]:
        now = time.monotonic()
        self._rests = {job: until for job, until in self._rests.items() if until > now}
        rows = claims.execute(TO_DO, (list(self._tools.works), LOOK_MAX)).fetchall()
        found = [(UUID(workspace), UUID(job)) for workspace, job in rows]
        return [each for each in found if each[1] not in self._rests]

    def _purge(self, claims: Connection) -> None:
        if time.monotonic() >= self._purge_at:
            self._purge_at = time.monotonic() + PURGE_INTERVAL_S
            claims.execute(PURGE, (ERRORS_KEPT_DAYS,))


@contextmanager
def claimed(claims: Connection, workspace_id: UUID, job_id: UUID) -> Iterator[bool]:
    """Whether nobody else works on the job, nor will for as long as the block lasts."""
    name = f"{workspace_id} {job_id}"
    is_ours = _is_true(claims, CLAIM, name)
    try:
        yield is_ours
    finally:
        if is_ours:
            _is_true(claims, RELEASE, name)


def _is_true(claims: Connection, statement: str, name: str) -> bool:
    row = claims.execute(statement, (name,)).fetchone()
    return bool(row and row[0])
