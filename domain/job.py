"""Job: long-running work on many items, which continues after the request for it was answered.

A job is done in steps. A step records its changes of entities in their streams and its progress in
the job's stream, in one transaction, so that the progress always matches the entities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import AggregateCreated, AggregateEvent

from domain.shared.entity import EntityEvent, RecordedAggregate
from domain.shared.refusals import Refusal

ERRORS_NAMED_MAX = 100
"""Maximum number of errors in the job's own events; a table has all of them."""


class JobStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True)
class ItemError:
    """The failure of one item.

    `row` is the number of the item from 1, in an import the row of the file. `facts` is JSON that
    clients see (an id, a column); `kept` is JSON stored with the error for internal use only.
    """

    row: int
    error: str
    code: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    kept: Any = None

    def shown(self) -> dict[str, Any]:
        """The error as clients see it: `{row, error, code, …}`, without members that are None."""
        shown = {"row": self.row, "error": self.error, "code": self.code or None, **self.facts}
        return {name: value for name, value in shown.items() if value is not None}


@dataclass(frozen=True)
class JobStep:
    """The result of one step: the number of items done, and where the next step starts.

    `cursor` is JSON that only the kind of work interprets. `total` is given once it is known.
    `counts` are counters of the kind of work (created, updated, skipped) for this step.
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
        """Number of items of this step."""
        return self.succeeded + self.failed


@dataclass
class JobEnded(Refusal):
    """The job has already ended."""

    job_id: UUID
    ended_as: str


class JobEvent(EntityEvent):
    """Something that happened to a job."""


class JobRequested(AggregateCreated, JobEvent):
    """Base of a job's first event."""

    workspace_id: UUID
    work: str
    parameters: dict[str, Any]
    total: int | None

    def apply(self, aggregate: Job) -> None:
        aggregate._evolve_created(self)


class Job(RecordedAggregate):
    """A job waits, runs, and ends completed, failed or cancelled.

    Decisions, and when they are refused:

    request: never.
    start, progress, fail: the job has ended (`JobEnded`).
    cancel: it has ended in another way (`JobEnded`). A second cancellation records nothing.

    A cancellation takes effect between two steps: the step that is under way is not recorded.
    """

    TOPIC = "job"
    KIND = "job"
    PLURAL = "jobs"

    class Event(AggregateEvent): ...

    class Created(Event, JobRequested):
        """The job was requested: the kind of work, its parameters, the number of items."""

        TOPIC: ClassVar[str] = "job.requested"
        ACTION = "requested"

    class Started(Event, JobEvent):
        """A worker started the job."""

        TOPIC: ClassVar[str] = "job.started"
        ACTION = "started"

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.RUNNING

    class Progressed(Event, JobEvent):
        """A step was done. Counts are totals of the job so far, errors those of the step."""

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
        """All items were processed."""

        TOPIC: ClassVar[str] = "job.completed"
        ACTION = "completed"

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.COMPLETED

    class Failed(Event, JobEvent):
        """The job failed for this reason; the steps that were done stay."""

        TOPIC: ClassVar[str] = "job.failed"
        ACTION = "failed"
        error: dict[str, Any]

        def apply(self, aggregate: Job) -> None:
            aggregate.status = JobStatus.FAILED

    class Cancelled(Event, JobEvent):
        """The job was cancelled; the steps that were done stay."""

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
        """A new job for this kind of work. `parameters` is JSON; `total` is None if not known."""
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
        """Record that a worker started the job, unless one did before. Raises `JobEnded`."""
        self._require_open()
        if self.status is JobStatus.WAITING:
            self._record(self.Started, at)

    def progress(self, step: JobStep, *, at: datetime) -> None:
        """Record a step; the job is completed if `step.done`. Raises `JobEnded`."""
        self._require_open()
        remaining = max(0, ERRORS_NAMED_MAX - self.errors_total)
        named = enumerate(step.errors[:remaining], self.errors_total + 1)
        self._record(
            self.Progressed,
            at,
            cursor=step.cursor,
            total=self.total if step.total is None else step.total,
            processed=self.processed + step.processed,
            succeeded=self.succeeded + step.succeeded,
            failed=self.failed + step.failed,
            counts=add_counts(self.counts, step.counts),
            errors_total=self.errors_total + len(step.errors),
            errors={str(number): error.shown() for number, error in named},
        )
        if step.done:
            self._record(self.Completed, at)

    def fail(self, error: Mapping[str, Any], *, at: datetime) -> None:
        """End the job with this error, `{code, error}`. Raises `JobEnded`."""
        self._require_open()
        self._record(self.Failed, at, error=dict(error))

    def cancel(self, *, at: datetime) -> None:
        """End the job, unless it was cancelled already. Raises `JobEnded`.

        A concurrent step then fails on the version of the job and is not recorded.
        """
        if self.status is JobStatus.CANCELLED:
            return
        self._require_open()
        self._record(self.Cancelled, at)

    @property
    def is_open(self) -> bool:
        """Whether the job has not ended."""
        return self.status not in ENDED

    def _require_open(self) -> None:
        if not self.is_open:
            raise JobEnded(self.id, self.status)

    def _record(self, event: type[JobEvent], at: datetime, **data: Any) -> None:
        # Clocks of machines differ; time must not go back from one version to the next.
        at = max(at, self.modified_on)
        self.trigger_event(event, timestamp=at, account_id=None, **data)

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


def add_counts(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The sum of two sets of counters, by name."""
    names = [*one, *(name for name in other if name not in one)]
    return {name: one.get(name, 0) + other.get(name, 0) for name in names}
