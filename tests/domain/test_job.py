"""Job: it waits, runs, and ends completed, failed or cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import pytest

from domain.job import ERRORS_NAMED_MAX, ItemError, Job, JobEnded, JobStatus, JobStep
from tests.support.spec import DAWN, ID, MINUTE, NOON, WORKSPACE

Decide = Callable[[Job], None]


def requested(total: int | None = 4) -> Job:
    """A job that was requested at dawn."""
    return Job.request(ID, WORKSPACE, "bulk", {"kind": "account"}, total=total, at=DAWN)


def given(*decisions: Decide) -> Job:
    """A job after these decisions, without pending events."""
    job = requested()
    for decide in decisions:
        decide(job)
    job.collect_events()
    return job


def recorded(job: Job) -> list[str]:
    """Collect the pending events and return their topics."""
    return [event.TOPIC for event in job.collect_events()]  # type: ignore[attr-defined]


def pending(job: Job) -> list[Any]:
    """The pending events, not collected."""
    return list(job.pending_events)


def start(job: Job) -> None:
    job.start(at=NOON)


def step(cursor: Any = 2, succeeded: int = 2, **result: Any) -> Decide:
    return lambda job: job.progress(JobStep(cursor, succeeded, **result), at=NOON)


def complete(job: Job) -> None:
    step(4, 4, done=True)(job)


def fail(job: Job) -> None:
    job.fail({"code": "E4500", "error": "No."}, at=NOON)


def cancel(job: Job) -> None:
    job.cancel(at=NOON)


def test_a_requested_job_waits() -> None:
    job = requested()
    assert recorded(job) == ["job.requested"]
    assert (job.status, job.processed, job.cursor) == (JobStatus.WAITING, 0, None)
    assert (job.work, job.parameters, job.total) == ("bulk", {"kind": "account"}, 4)
    assert job.is_open


def test_a_job_is_started_once() -> None:
    job = given()
    start(job)
    start(job)
    assert recorded(job) == ["job.started"]
    assert job.status is JobStatus.RUNNING


def test_counts_of_steps_are_added() -> None:
    job = given(start)
    error = ItemError(2, "It is deleted.", "E5003", {"id": "a", "column": None}, kept=["x"])
    step(2, 1, failed=1, errors=[error], counts={"created": 1})(job)
    first: Any = job.pending_events[-1]
    assert first.errors == {"1": {"row": 2, "error": "It is deleted.", "code": "E5003", "id": "a"}}
    step(4, 2, counts={"created": 1, "updated": 1}, done=True)(job)
    assert recorded(job) == ["job.progressed", "job.progressed", "job.completed"]
    assert (job.processed, job.succeeded, job.failed, job.cursor) == (4, 3, 1, 4)
    assert job.counts == {"created": 2, "updated": 1}
    assert (job.errors_total, job.status) == (1, JobStatus.COMPLETED)


def test_events_contain_only_the_first_errors() -> None:
    job = given(start)
    many = [ItemError(row, "No.") for row in range(1, 81)]
    step(80, 0, failed=80, errors=many)(job)
    step(160, 0, failed=80, errors=many)(job)
    first, second = pending(job)
    assert list(first.errors) == [str(number) for number in range(1, 81)]
    assert list(second.errors) == [str(number) for number in range(81, ERRORS_NAMED_MAX + 1)]
    assert job.errors_total == 160


def test_a_step_may_set_the_total() -> None:
    job = requested(total=None)
    step(2, 2, total=7)(job)
    assert job.total == 7
    step(4, 2)(job)
    assert job.total == 7


def test_a_failed_job_records_its_error() -> None:
    job = given(start)
    fail(job)
    assert pending(job)[-1].error == {"code": "E4500", "error": "No."}
    assert recorded(job) == ["job.failed"]
    assert job.status is JobStatus.FAILED


@pytest.mark.parametrize("before", [(), (start,), (start, step())])
def test_a_waiting_or_running_job_is_cancelled_once(before: tuple[Decide, ...]) -> None:
    job = given(*before)
    cancel(job)
    cancel(job)
    assert recorded(job) == ["job.cancelled"]
    assert job.status is JobStatus.CANCELLED


@pytest.mark.parametrize("end", [complete, fail, cancel])
@pytest.mark.parametrize("decide", [start, step(), fail, cancel])
def test_an_ended_job_refuses_all_decisions(end: Decide, decide: Decide) -> None:
    if end is cancel and decide is cancel:
        return
    job = given(start, end)
    with pytest.raises(JobEnded) as refused:
        decide(job)
    assert refused.value == JobEnded(ID, job.status)
    assert recorded(job) == []
    assert not job.is_open


def test_a_clock_that_is_behind_does_not_move_the_time_back() -> None:
    job = given(start)
    job.progress(JobStep(1, 1), at=DAWN - MINUTE)
    assert job.pending_events[-1].timestamp == NOON


def test_replaying_its_events_restores_a_job() -> None:
    def fold(events: Iterable[Any]) -> Any:
        job = None
        for event in events:
            job = event.mutate(job)
        return job

    job = requested()
    start(job)
    step(2, 1, failed=1, errors=[ItemError(2, "No.")], counts={"created": 1})(job)
    complete(job)
    assert fold(job.collect_events()) == job
    assert isinstance(job.modified_on, datetime)
