"""Job: work on many things that goes on after the request that asked for it was answered.

It is taken in steps. What a step did to entities is in their own streams; the job's stream has the
progress, in the same transaction. So the job is always exactly as far as the entities are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import AggregateCreated, AggregateEvent

from domain.shared.entity import EntityEvent, Recorded
from domain.shared.refusals import Refusal

ERRORS_NAMED_MAX = 100
"""Errors that the job itself names, the first ones; all of them are kept beside it."""


class JobStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True)
class ItemError:
    """One item that could not be done.

    `row` counts the items from 1, in an import the rows of the file; `facts` are JSON shown beside
    (an id, a column); `kept` is JSON kept with the error and shown nowhere (the row as it came).
    """

    row: int
    error: str
    code: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    kept: Any = None

    def shown(self) -> dict[str, Any]:
        """As the job shows it: `{row, error, code, …}`; what has no value is left out."""
        shown = {"row": self.row, "error": self.error, "code": self.code or None, **self.facts}
        return {name: value for name, value in shown.items() if value is not None}


@dataclass(frozen=True)
class JobStep:
    """What one step did: so many items more, and where to go on.

    `cursor` is JSON of the work's own making; `total` is set where it becomes known only now.
    `counts` are further counters of the work's own (created, updated, skipped), of this step.
    """

    cursor: Any
    succeeded: int
    failed: int = 0
    errors: Sequence[ItemError] = ()
    done: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    total: int | None = None

    @property
    def processed(self) -> int:
        """Items of this step."""
        return self.succeeded + self.failed


@dataclass
class JobEnded(Refusal):
    """The job has ended already."""

    job_id: UUID
    ended_as: str


class JobEvent(EntityEvent):
    """Something that happened to a job."""


class JobRequested(AggregateCreated, JobEvent):
    """The shape of a job's first event."""

    workspace_id: UUID
    work: str
    parameters: dict[str, Any]
    total: int | None

    def apply(self, aggregate: Job) -> None:
        aggregate._evolve_created(self)


class Job(Recorded):
    """Waits, runs, and ends in one of three ways. Whoever cancels it is heard between two steps."""

    TOPIC = "job"
    KIND = "job"
    PLURAL = "jobs"

    class Event(AggregateEvent): ...

    class Created(Event, JobRequested):
        """Somebody asked for it: which work, with which parameters, on how many items."""

        TOPIC: ClassVar[str] = "job.requested"
        ACTION = "requested"

    class Started(Event, JobEvent):
        """A worker took it up."""

        TOPIC: ClassVar[str] = "job.started"
        ACTION = "started"

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.RUNNING

    class Progressed(Event, JobEvent):
        """A step was done. Counts are those of the whole job so far, errors those of the step."""

        TOPIC: ClassVar[str] = "job.progressed"
        ACTION = "progressed"
        cursor: Any
        total: int | None
        processed: int
        succeeded: int
        failed: int
        counts: dict[str, int]
        errors_total: int
        errors: dict[str, dict[str, Any]]

        def apply(self, aggregate: Job) -> None:
            aggregate._evolve_progressed(self)

    class Completed(Event, JobEvent):
        """All of it was processed."""

        TOPIC: ClassVar[str] = "job.completed"
        ACTION = "completed"

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.COMPLETED

    class Failed(Event, JobEvent):
        """It cannot go on, for this reason; what was done stays."""

        TOPIC: ClassVar[str] = "job.failed"
        ACTION = "failed"
        error: dict[str, Any]

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.FAILED

    class Cancelled(Event, JobEvent):
        """Somebody cancelled it; what was done stays."""

        TOPIC: ClassVar[str] = "job.cancelled"
        ACTION = "cancelled"

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.CANCELLED

    # Decisions

    @classmethod
    def request(
        cls,
        job_id: UUID,
        workspace_id: UUID,
        work: str,
        parameters: Mapping[str, Any],
        *,
        total: int | None,
        at: datetime,
    ) -> Self:
        """A new job for this kind of work. `parameters` is JSON; `total` None where not known."""
        return cls._create(
            cls.Created,
            id=job_id,
            timestamp=at,
            workspace_id=workspace_id,
            account_id=None,
            work=work,
            parameters=dict(parameters),
            total=total,
        )

    def start(self, *, at: datetime) -> None:
        """A worker takes it up; nothing is recorded where one did before. Raises `JobEnded`."""
        self._require_open()
        if self.status is JobStatus.WAITING:
            self._record(self.Started, at)

    def progress(self, step: JobStep, *, at: datetime) -> None:
        """A step was done, the last one where `step.done`. Raises `JobEnded`."""
        self._require_open()
        room = max(0, ERRORS_NAMED_MAX - self.errors_total)
        named = enumerate(step.errors[:room], self.errors_total + 1)
        self._record(
            self.Progressed,
            at,
            cursor=step.cursor,
            total=self.total if step.total is None else step.total,
            processed=self.processed + step.processed,
            succeeded=self.succeeded + step.succeeded,
            failed=self.failed + step.failed,
            counts=added(self.counts, step.counts),
            errors_total=self.errors_total + len(step.errors),
            errors={str(number): error.shown() for number, error in named},
        )
        if step.done:
            self._record(self.Completed, at)

    def fail(self, error: Mapping[str, Any], *, at: datetime) -> None:
        """It cannot go on: `{code, error}`. Raises `JobEnded`."""
        self._require_open()
        self._record(self.Failed, at, error=dict(error))

    def cancel(self, *, at: datetime) -> None:
        """No further step is taken; nothing is recorded where it was cancelled. Raises `JobEnded`.

        A step that is being taken meanwhile finds the version of the job taken, and is not kept.
        """
        if self.status is JobStatus.CANCELLED:
            return
        self._require_open()
        self._record(self.Cancelled, at)

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.status not in ENDED

    def _require_open(self) -> None:
        if not self.is_open:
            raise JobEnded(self.id, self.status)

    def _record(self, event: type[JobEvent], at: datetime, **facts: Any) -> None:
        # Clocks of several machines differ; the order is that of the versions.
        at = max(at, self.modified_on)
        self.trigger_event(event, timestamp=at, account_id=None, **facts)

    # Evolution

    def _evolve_created(self, event: JobRequested) -> None:
        self.workspace_id: UUID = event.workspace_id
        self.work: str = event.work
        self.parameters: dict[str, Any] = event.parameters
        self.total: int | None = event.total
        self.status: JobStatus = JobStatus.WAITING
        self.cursor: Any = None
        self.processed = 0
        self.succeeded = 0
        self.failed = 0
        self.counts: dict[str, int] = {}
        self.errors_total = 0

    def _evolve_progressed(self, event: Job.Progressed) -> None:
        self.cursor = event.cursor
        self.total = event.total
        self.processed = event.processed
        self.succeeded = event.succeeded
        self.failed = event.failed
        self.counts = event.counts
        self.errors_total = event.errors_total


def added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The sum of two sets of counters."""
    names = [*one, *(name for name in other if name not in one)]
    return {name: one.get(name, 0) + other.get(name, 0) for name in names}
