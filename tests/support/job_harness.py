"""Jobs on a test's own database: a kind of work for tests, workers, and a view of the log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg

from commands.entities import EntityCommands
from commands.jobs.requests import JobCommands
from commands.jobs.runs import JobEnvironment
from commands.jobs.work import CannotContinue, JobContext, JobWork, WorkFactory
from commands.jobs.worker import Worker
from domain.job import ItemError, Job, JobStep
from domain.note import Note
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime.errors import summarise_error
from tests.support.databases import Urls

WRITING = "writing"
POISON = "poison"
REFUSED = "refused"
HOPELESS = "hopeless"


class WritingNotes(JobWork):
    """Writes a note for each item; some items fail instead.

    `before_step` is called in each step with its maximum number of items, before it writes.
    """

    LIMIT = 10
    before_step: Callable[[int], None] = staticmethod(lambda limit: None)

    def step(self, cursor: Any, limit: int) -> JobStep:
        """Write the next notes."""
        self.before_step(limit)
        done = int(cursor or 0)
        items = self.context.items(done, limit)
        errors = [each for row, body in enumerate(items, done + 1) if (each := self._do(row, body))]
        done += len(items)
        return JobStep(
            done,
            len(items) - len(errors),
            len(errors),
            errors,
            done=done == self.context.total,
            counts={"written": len(items) - len(errors)},
        )

    def _do(self, row: int, body: str) -> ItemError | None:
        if body == POISON:
            raise ZeroDivisionError("poison")
        if body == HOPELESS:
            raise CannotContinue("There is no ink.")
        if body == REFUSED:
            return ItemError(row, "It was refused.", "E5999", {"body": body}, kept={"row": row})
        note = Note.create(
            self.context.new_id(),
            self.context.scope.workspace_id,
            {"body": body},
            at=self.context.clock(),
            account_id=UUID(self.context.parameters["accountId"]),
        )
        self.context.log.append(note)
        return None


@dataclass
class JobHarness:
    """Requests jobs and runs workers in one workspace."""

    urls: Urls
    log: EventLog
    commands: EntityCommands
    scope: Scope
    database: Connection
    works: dict[str, WorkFactory] = field(default_factory=lambda: {WRITING: WritingNotes})
    account_id: UUID = field(default_factory=uuid4)

    @property
    def jobs(self) -> JobCommands:
        """Return the commands on jobs."""
        return JobCommands(self.log, clock=lambda: datetime.now(UTC), new_id=uuid4)

    def worker(
        self,
        works: Mapping[str, WorkFactory] | None = None,
        log: EventLog | None = None,
        **settings: Any,
    ) -> Worker:
        """Return a worker that does these works, on the harness's log or another one."""
        environment = JobEnvironment(
            log or self.log,
            self.commands,
            works or self.works,
            summarise_error,
            clock=lambda: datetime.now(UTC),
            new_id=uuid4,
        )
        return Worker(self.urls.app, environment, **settings)

    def ask(self, *items: str, scope: Scope | None = None, work: str = WRITING) -> UUID:
        """Request a job that writes these notes; return its id."""
        parameters = {"accountId": str(self.account_id)}
        asked = self.jobs.request(scope or self.scope, work, parameters, items=items)
        return asked.job.id

    def job(self, job_id: UUID, scope: Scope | None = None) -> Job:
        """Return the current job."""
        with self.log.scoped(scope or self.scope):
            return self.log.load(Job, job_id)

    def written(self) -> list[str]:
        """Return the bodies of the notes that were written, in order."""
        rows = self.database.execute(
            "SELECT data->'fields'->>'body' FROM events WHERE topic = 'note.created'"
            " ORDER BY position"
        )
        return [row[0] for row in rows]

    def rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        statement = psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(table))
        row = self.database.execute(statement).fetchone()
        assert row is not None
        return int(row[0])


def hooked(before_step: Callable[[int], None]) -> WorkFactory:
    """Return the work for tests, with a function that is called in each step."""

    def open_work(context: JobContext) -> JobWork:
        work = WritingNotes(context)
        work.before_step = before_step
        return work

    return open_work


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    """Run the worker in a thread while the block lasts."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()
