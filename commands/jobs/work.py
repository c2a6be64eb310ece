"""What a kind of work has to do: one bounded step, within a transaction that is open already.

A kind of work is a subclass of `JobWork`, and a module in runtime/work that names it (`KIND`) and
makes it (`open_work`); modules are found by looking. A request for it is `JobCommands.request`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from commands.entities import EntityCommands
from commands.jobs.keeping import read_items
from domain.job import ItemError, JobStep
from eventlog.scope import Scope
from eventlog.store.log import EventLog

STEP_ITEMS_MAX = 500
"""Items of one step where a kind of work says nothing else. Followers of the log wait for a step
from its first event to its end, so it should take some 100 ms and append at its end."""


@dataclass(frozen=True)
class ErrorSummary:
    """A failure as it is told: a code of the dictionary, and a sentence."""

    code: str
    error: str


@dataclass(frozen=True)
class JobContext:
    """What work on one job has at hand, for one turn.

    Within a step `log.transaction(scope)` and `commands` take part in the step's transaction.
    Outside of one (when the work is made) they are transactions of their own.
    """

    log: EventLog
    commands: EntityCommands
    scope: Scope
    """Who asked for the job, from where, by which command: its events are those of that command,
    so that undoing the command takes back the job. `extra` names the job."""
    job_id: UUID
    parameters: Mapping[str, Any]
    """As the job was asked for."""
    total: int | None
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]
    tell: Callable[[Exception], ErrorSummary]
    """How failures are told, refusals among them."""

    def items(self, first: int, limit: int) -> list[Any]:
        """The items kept with the job, from the one with this number on, counted from 0."""
        with self.log.transaction(self.scope) as connection:
            return read_items(connection, self.scope.workspace_id, self.job_id, first, limit)

    def failure(self, row: int, error: Exception, *, kept: Any = None, **facts: Any) -> ItemError:
        """An item that failed by this error; `row` counts from 1, `facts` and `kept` are JSON."""
        told = self.tell(error)
        return ItemError(row, told.error, told.code, facts, kept)


class CannotGoOn(Exception):
    """Raised in a step, from what is the reason: the job fails, what was done stays."""


class JobWork(ABC):
    """Work on one job, for one turn. What it keeps in memory nobody else changes in that time.

    Nobody else works on the job then; a turn that loses that is given up before it records more.
    """

    LIMIT: ClassVar[int] = STEP_ITEMS_MAX
    """Items of one step, at the most."""

    def __init__(self, context: JobContext) -> None:
        self.context = context

    @abstractmethod
    def step(self, cursor: Any, limit: int) -> JobStep:
        """Do the next `limit` items, or fewer. `cursor` is that of the step before, None at first.

        Called within an open transaction in `context.scope`; what it appends is committed together
        with the progress that it returns, or neither is. An item that is refused is an error of the
        step and spoils nothing. Whatever is raised rolls back the step, which is then tried again
        with fewer items, down to one; what fails alone is left out (`skip`). What was kept in
        memory has to bear that: a step may be called again with a cursor it had before. Raise
        `CannotGoOn` where nothing more can be done.
        """

    def skip(self, cursor: Any, error: Exception) -> JobStep:
        """The next item cannot be done: leave it out. Called in a transaction, as `step` is.

        To be overridden where the cursor is not the number of items that are done.
        """
        done = int(cursor or 0) + 1
        is_last = self.context.total is not None and done >= self.context.total
        return JobStep(done, 0, 1, [self.context.failure(done, error)], done=is_last)


OpenWork = Callable[[JobContext], JobWork]
