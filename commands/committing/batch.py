"""One batch of commands: loaded, decided and appended in one transaction, each with its outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import psycopg

from commands.decisions import CommandOutcome, Decision
from commands.idempotency import Answer, KeyedRequest, find_answers, remember_answers
from commands.loaded import LoadedEntities, StagedEvent
from domain.shared.entity import Entity
from eventlog.connections import WRITES_REFUSED
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from eventlog.store.shared import CannotShare, SharedTransaction, SharedTransactions

LOST = ("08", "57P")
"""SQLSTATEs of a connection that ends: whether a commit took effect is not known."""
LOADS_MAX = 8
"""Maximum number of round trips in which a batch reads entities; what needs more runs by itself."""

Result = CommandOutcome | Answer | Exception
"""The outcome of a command; the answer that was stored under its key; or its refusal."""


class NotRead(Exception):
    """A decision needs these entities, which were not read yet."""

    def __init__(self, ids: Collection[UUID]) -> None:
        super().__init__(ids)
        self.ids = ids


@dataclass(eq=False)
class SharedCommand:
    """A command, and what it has come to."""

    scope: Scope
    decision: Decision
    keyed: KeyedRequest | None = None
    answer: Callable[[CommandOutcome], Answer] | None = None
    """The answer that is stored under the key."""
    result: Result | None = None
    _entity: Entity | None = field(default=None, init=False)
    _staged: list[StagedEvent] = field(default_factory=list, init=False)

    @property
    def needs_transaction(self) -> bool:
        """Whether it takes locks, which last until the end of a transaction."""
        return bool(self.keyed or self.decision.shared)

    @property
    def recorded(self) -> Entity | None:
        """The entity as the events of this command leave it, None if they are not its last ones."""
        entity = self._entity
        if entity is None:
            return None
        last = (entity.id, entity.version)
        stored = {(each.originator_id, each.originator_version) for each, _ in self._staged}
        return entity if last in stored else None


class Batch:
    """The commands of one transaction. Their results count once it has committed."""

    def __init__(
        self, log: EventLog, transaction: SharedTransaction, commands: Sequence[SharedCommand]
    ) -> None:
        self._log = log
        self._transaction = transaction
        self._commands = commands
        self._loaded: dict[UUID, LoadedEntities] = {}
        self._read: set[tuple[UUID, UUID]] = set()

    async def run(self, *, window_s: int) -> None:
        """Set the result of each command. Raises psycopg's errors: then no result counts.

        window_s: how long answers to requests with a key are found.
        """
        if accounts := {id_ for each in self._commands for id_ in each.decision.shared}:
            await self._transaction.lock_accounts(accounts)
        await self._find_answers(window_s)
        await self._decide([each for each in self._commands if each.result is None])
        await self._append()
        await self._remember(window_s)

    async def _find_answers(self, window_s: int) -> None:
        keyed = [each for each in self._commands if each.keyed is not None]
        if keyed:
            requests = [each.keyed for each in keyed if each.keyed is not None]
            connection = self._transaction.connection
            answers = await find_answers(connection, requests, window_s=window_s)
            for command, answer in zip(keyed, answers, strict=True):
                command.result = answer

    async def _decide(self, undecided: list[SharedCommand]) -> None:
        missing = {
            (each.scope.workspace_id, id_) for each in undecided for id_ in each.decision.ids
        }
        for _ in range(LOADS_MAX):
            if missing:
                await self._transaction.read(missing)
                self._read |= missing
            missing = set()
            waiting: list[SharedCommand] = []
            for command in undecided:
                try:
                    self._decide_one(command)
                except NotRead as not_read:
                    missing |= {(command.scope.workspace_id, each) for each in not_read.ids}
                    waiting.append(command)
                except Exception as error:  # noqa: BLE001 - it is raised again for its caller
                    command.result = error
            undecided = waiting
            if not undecided:
                return
        for command in undecided:
            command.result = CannotShare()

    def _decide_one(self, command: SharedCommand) -> None:
        workspace_id = command.scope.workspace_id
        loaded = self._loaded.get(workspace_id)
        if loaded is None:
            read = partial(self._entities, workspace_id)
            loaded = self._loaded[workspace_id] = LoadedEntities(self._log, read=read)
        try:
            command._entity = command.decision.decide(loaded)
            command._staged = loaded.take_staged()
        finally:
            # A decision that was refused may have staged events or left them pending, and an
            # outcome must not change when a later command decides on the same entity.
            loaded.drop_staged()
            loaded.discard_all()

    def _entities(self, workspace_id: UUID, ids: Iterable[UUID]) -> dict[UUID, Entity]:
        wanted = list(ids)
        if not_read := [each for each in wanted if (workspace_id, each) not in self._read]:
            raise NotRead(not_read)
        found = {each: self._transaction.entity(workspace_id, each) for each in wanted}
        return {entity_id: each for entity_id, each in found.items() if each is not None}

    async def _append(self) -> None:
        decided = [each for each in self._commands if each._entity is not None]
        events = [
            (command.scope, event, extra) for command in decided for event, extra in command._staged
        ]
        is_unchanged = any(not each._staged for each in decided)
        taken = await self._transaction.taken_position() if is_unchanged else 0
        positions = iter(await self._transaction.append(events) if events else ())
        for command in decided:
            assert command._entity is not None
            position = [next(positions) for _ in command._staged][-1:]
            command.result = CommandOutcome(command._entity, *(position or [taken]))

    async def _remember(self, window_s: int) -> None:
        answers = [
            (each.keyed, each.answer(each.result))
            for each in self._commands
            if each.keyed and each.answer and isinstance(each.result, CommandOutcome)
        ]
        if answers:
            await remember_answers(self._transaction.connection, answers, window_s=window_s)


async def run_batch(
    log: EventLog,
    transactions: SharedTransactions,
    commands: Sequence[SharedCommand],
    *,
    window_s: int,
) -> None:
    """Run the commands in one transaction and set their results, which are committed then.

    Raises `CannotShare` if the database failed or refused a statement and nothing was recorded. If
    the connection was lost after events were sent, this is not known: then psycopg's error is
    raised, as are `WRITES_REFUSED` and the errors of the pool.
    """
    in_transaction = any(each.needs_transaction for each in commands)
    transaction: SharedTransaction | None = None
    try:
        async with transactions.begin(in_transaction=in_transaction) as transaction:
            await Batch(log, transaction, commands).run(window_s=window_s)
    except WRITES_REFUSED:
        raise
    except psycopg.Error as error:
        is_lost = error.sqlstate is None or error.sqlstate.startswith(LOST)
        if transaction is None or (is_lost and transaction.has_appended):
            raise
        raise CannotShare from error
    # Of several commands on one entity, the last one leaves its state.
    states = {
        (each.scope.workspace_id, entity.id): entity
        for each in commands
        if (entity := each.recorded) is not None
    }
    for (workspace_id, _), entity in states.items():
        log.cache.keep_decided(workspace_id, entity)
