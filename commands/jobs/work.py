"""The interface of a kind of work: one bounded step, within a transaction that is already open.

A kind of work is a subclass of `JobWork` and a module in runtime/work with its name (`KIND`) and a
function that creates it (`open_work`). `JobCommands.request` requests a job for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from commands.entities import EntityCommands
from commands.jobs.job_store import read_items
from domain.job import ItemError, JobStep
from eventlog.scope import Scope
from eventlog.store.log import EventLog

STEP_ITEMS_MAX = 500
"""Default maximum number of items per step. Followers of the log wait for a step from its first
event to its commit, so a step should take about 100 ms and append at its end."""


@dataclass(frozen=True)
class ErrorSummary:
    """A failure as clients see it: an error code and a sentence."""

    code: str
    error: str


@dataclass(frozen=True)
class JobContext:
    """What the work of one job run may use.

    Within a step, `log.transaction(scope)` and `commands` take part in the step's transaction.
    Outside of a step (while the work is created) each opens a transaction.
    """

    log: EventLog
    commands: EntityCommands
    scope: Scope
    """Actor, origin and command of the request for the job. The job's events carry the same
    command, so that undoing the command undoes the job. `extra` contains the job's id."""
    job_id: UUID
    parameters: Mapping[str, Any]
    """The parameters of the request."""
    total: int | None
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]
    summarise_error: Callable[[Exception], ErrorSummary]
    """Describes an exception, a refusal or any other, for clients."""

    def items(self, first: int, limit: int) -> list[Any]:
        """Return at most `limit` of the job's items, starting with number `first` (from 0)."""
        with self.log.transaction(self.scope) as connection:
            return read_items(connection, self.scope.workspace_id, self.job_id, first, limit)

    def item_error(
        self, row: int, error: Exception, *, kept: Any = None, **facts: Any
    ) -> ItemError:
        """Describe an item that failed; `row` counts from 1, `facts` and `kept` are JSON."""
        summary = self.summarise_error(error)
        return ItemError(row, summary.error, summary.code, facts, kept)


class CannotContinue(Exception):
    """Raised by a step to fail the job; completed steps stay.

    Clients see the exception's cause (`raise … from`), without one the exception itself.
    """


class JobWork(ABC):
    """The work of one job during one run.

    Only one worker works on a job at a time. A run that loses its claim is rejected before it
    records another step, so a subclass may keep state in memory.
    """

    LIMIT: ClassVar[int] = STEP_ITEMS_MAX
    """Maximum number of items per step."""

    def __init__(self, context: JobContext) -> None:
        self.context = context

    @abstractmethod
    def step(self, cursor: Any, limit: int) -> JobStep:
        """Process at most `limit` items after `cursor`, which is None at first.

        The caller has opened a transaction in `context.scope`. It commits what the step appends
        together with the returned progress. A refused item is an error of the step and does not
        affect the others. Any exception rolls the step back; the caller then retries with fewer
        items, down to one, and skips an item that fails alone (`skip`). So a step may be called
        again with an earlier cursor, and state in memory must allow for that. Raises
        `CannotContinue` if no further item can be processed.
        """

    def skip(self, cursor: Any, error: Exception) -> JobStep:
        """Record the next item as failed. The caller has opened a transaction, as for `step`.

        To be overridden if the cursor is not the number of processed items.
        """
        done = int(cursor or 0) + 1
        is_last = self.context.total is not None and done >= self.context.total
        return JobStep(done, 0, 1, [self.context.item_error(done, error)], done=is_last)


WorkFactory = Callable[[JobContext], JobWork]
