"""The committer: commands that arrive while a transaction runs share the next one.

Each command has its own outcome, refusal, metadata and idempotency key. If the database refuses a
batch, for example after a concurrent write to one of its streams, nothing of it was recorded, and
each command is run by itself. See docs/adr/0039-commands-share-transactions.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from psycopg_pool import PoolTimeout

from commands.committing.batch import Result, SharedCommand, run_batch
from commands.decisions import CommandOutcome, Decision
from commands.idempotency import Answer, KeyedRequest
from eventlog.connections import translated_errors
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from eventlog.store.shared import CannotShare, SharedTransactions

BATCH_MAX = 32
"""Maximum number of commands in a transaction. The event loop decides them without a pause."""


class Committer:
    """Executes commands in shared transactions. Used in one event loop.

    A command that arrives alone is run at once.
    """

    def __init__(self, log: EventLog, transactions: SharedTransactions, *, window_s: int) -> None:
        """window_s: how long answers to requests with a key are found."""
        self._log = log
        self._transactions = transactions
        self._window_s = window_s
        self._queue: deque[tuple[SharedCommand, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """The number of commands that wait for a transaction."""
        return len(self._queue)

    async def run(
        self,
        scope: Scope,
        decision: Decision,
        *,
        keyed: KeyedRequest | None = None,
        answer: Callable[[CommandOutcome], Answer] | None = None,
    ) -> CommandOutcome | Answer:
        """Run a decision; return the outcome, or the answer that was stored for the request.

        answer: makes what is stored under the key. Raises what the decision raises, `KeyInFlight`,
        `KeyReused`, the library's `OperationalError`; and `CannotShare`: then nothing was recorded,
        and the caller runs the command by itself.
        """
        if decision.runs_alone:
            raise CannotShare
        command = SharedCommand(scope, decision, keyed, answer)
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((command, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run_all(), name="annals-committer")
        # If the client goes away, the command is executed all the same.
        result = await done
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Wait for the commands that were accepted."""
        if self._running is not None:
            await self._running

    async def _run_all(self) -> None:
        try:
            while self._queue:
                number = min(len(self._queue), BATCH_MAX)
                await self._run([self._queue.popleft() for _ in range(number)])
        finally:
            self._running = None

    async def _run(self, batch: list[tuple[SharedCommand, asyncio.Future[Result]]]) -> None:
        commands = [command for command, _ in batch]
        try:
            with translated_errors():
                await run_batch(self._log, self._transactions, commands, window_s=self._window_s)
        except Exception as error:  # noqa: BLE001 - it is raised again for each caller
            if isinstance(error.__cause__, PoolTimeout):
                # The database cannot be reached: the next batch would wait as long for nothing.
                batch += self._queue
                self._queue.clear()
            for command, _ in batch:
                command.result = error
        for command, done in batch:
            assert command.result is not None, "a batch sets every result"
            if not done.done():
                done.set_result(command.result)
