"""The process of one job on a projection: `annals job ID`, started by a projector."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType

import psycopg

from eventlog.connections import follow_connection
from projections.engine.jobs import queue
from projections.engine.jobs.queue import WHOLE_LOG, ProjectionJob
from projections.engine.ledger.verification import verify_log
from projections.engine.rebuild.progress import Cancelled, RebuildProgress
from projections.engine.rebuild.refusal import RebuildRefused
from projections.engine.rebuild.retry import retry
from projections.engine.rebuild.runner import (
    ROWS_EQUAL,
    SWAPPED_IN,
    Rebuild,
    rollback,
    summary_of,
)
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions
from runtime.settings import Settings

log = logging.getLogger(__name__)


def kill_group_on_sigterm() -> None:
    """Have SIGTERM kill this process and its workers; a rebuild leaves live tables intact."""

    def kill_group(_number: int, _frame: FrameType | None) -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill_group)


def run_projection_job(settings: Settings, job_id: int) -> bool:
    """Run the job, record its outcome, and return whether it succeeded.

    `settings` need `projector_url`. Raises `LookupError` for an unknown job or projection.
    """
    url = str(settings.projector_url)
    with follow_connection(url, application_name="annals-job") as connection:
        job = queue.find_job(connection, job_id)
        if job is None or job.projection not in (*PROJECTIONS, WHOLE_LOG):
            raise LookupError(f"job {job_id} or its projection is unknown to this version")
        definition = table_definitions().get(job.projection, "")
        code_version = version(job.projection, definition) if definition else ""
        if not queue.claim(connection, job_id, code_version):
            log.info("job %s has already started or ended", job_id)
            return False
        facts = {"job": job_id, "kind": job.kind, "projection": job.projection}
        log.info("job started", extra={"facts": facts})
        state, summary, message = _run_and_report(url, job, definition)
        queue.end(connection, job_id, state, summary=summary, message=message)
    level = logging.INFO if state != "failed" else logging.ERROR
    outcome = {"state": state, "summary": summary, "detail": message}
    log.log(level, "job ended", extra={"facts": facts | outcome})
    return state == "done"


def _run_and_report(url: str, job: ProjectionJob, definition: str) -> tuple[str, str, str]:
    """Run the job and return its final state, its summary, and a message for operators."""
    try:
        return "done", _run(url, job, definition), ""
    except Cancelled:
        return "cancelled", "", ""
    except (RebuildRefused, psycopg.Error) as error:
        return "failed", summary_of(error), str(error)


def _run(url: str, job: ProjectionJob, definition: str) -> str:
    """Run the job and return its summary. Raises `Cancelled` and `RebuildRefused`."""
    if job.projection == WHOLE_LOG:
        return _check_log(url, job)
    if job.kind in ("rebuild", "verify"):
        rebuild = Rebuild(
            url,
            {job.projection: definition},
            rebuild_ids={job.projection: job.id},
            replace_because=job.replace_because,
            throttle_events_per_s=job.throttle_events_per_s,
        )
        if job.kind == "rebuild":
            rebuild.run()
            return SWAPPED_IN
        (checked,) = rebuild.verify()
        if checked.fault:
            raise RebuildRefused(str(checked), summary=checked.fault)
        return ROWS_EQUAL
    if job.kind == "rollback":
        rollback(url, job.projection, definition, job_id=job.id)
        return "the previous tables are live again"
    code_version = version(job.projection, definition)
    outcomes = retry(url, PROJECTIONS[job.projection], code_version)
    parked = [each for each in outcomes if each.error is not None]
    for each in parked:
        log.warning("still parked: %s %s: %s", job.projection, each.parked.entity_id, each.error)
    if parked:
        raise RebuildRefused(f"{len(parked)} of {len(outcomes)} entities are still parked.")
    return f"{len(outcomes)} entities are repaired, each equal to a fresh fold"


def _check_log(url: str, job: ProjectionJob) -> str:
    """Check the log and return the summary. Raises `RebuildRefused` if it has faults."""
    with (
        follow_connection(url, application_name="annals-verify") as connection,
        follow_connection(url, application_name="annals-job") as recorder,
    ):
        progress = RebuildProgress(recorder, [job.id], lambda *_: None)
        compared = 0

        def record(done: int, total: int) -> None:
            nonlocal compared
            if not compared:
                progress.begin(total)
            progress.add(done - compared, done)
            compared = done

        faults = verify_log(connection, table_definitions(), on_progress=record)
    if faults:
        raise RebuildRefused("\n".join(faults), summary=f"{len(faults)} faults were found")
    return "every projection consumed each event exactly once, and the protections are in place"
