"""Undo: new events that take back earlier ones, of one event or of all events of a command.

The events of an undo are events like any other. Their metadata names the event that each of them
undoes (`undoesPosition`) and the command of that event (`undoes`), so an undo can be undone as
well. See docs/adr/0009-undo.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from commands.decisions import retry_on_conflict
from commands.loaded import LoadedEntities
from commands.permissions import Permission, write_permission
from commands.undo.histories import EntityHistories
from commands.undo.plan import UndoAttempt, UndoPlan, UndoPlanner, stage_plan
from domain.account import Account
from domain.job import Job
from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
)
from domain.shared.kinds import ENTITY_OF
from domain.shared.merging import EntityMerged
from domain.shared.refusals import (
    NothingToUndo,
    NotUndoable,
    PartOfAWhole,
    Refusal,
    TooMuchToUndo,
)
from eventlog.scope import AS_ONE, Scope
from eventlog.store.log import EventLog
from eventlog.store.search import EventSearch, TracedEvent

UNDO_EVENTS_MAX = 1_000
"""Maximum number of events that are undone in one transaction; more take a job."""
UNDO_AS_ONE_EVENTS_MAX = 5_000
"""Maximum number of events of an atomic command, such as a merge, which is always undone in one
transaction. It takes about 4 s on a busy machine with 2 cores; the database ends it after 15 s."""
UNDO_JOB_EVENTS_MAX = 1_000_000
"""Maximum number of events that one undo takes back."""

Authorise = Callable[[Permission], None]
"""Raises if the caller lacks the permission."""


@dataclass(frozen=True)
class UndoTarget:
    """The events to undo, by position; only those of `command_id` if that is given."""

    positions: tuple[int, ...]
    command_id: str | None = None

    def __str__(self) -> str:
        return self.command_id or ", ".join(map(str, self.positions))


@dataclass(frozen=True)
class UndoOutcome:
    """What was undone, and a log position that includes it."""

    plan: UndoPlan
    position: int


@dataclass
class OperationInProgress(Refusal):
    """The operation is still under way."""

    job_id: UUID


def undo_events_max(*, is_atomic: bool) -> int:
    """Maximum number of events of a command that are undone in one transaction."""
    return UNDO_AS_ONE_EVENTS_MAX if is_atomic else UNDO_EVENTS_MAX


def needs_undo_job(events: int, *, is_atomic: bool) -> bool:
    """Whether undoing a command with this number of events takes a job. Raises `TooMuchToUndo`."""
    if is_atomic or events <= UNDO_EVENTS_MAX:
        return False
    if events > UNDO_JOB_EVENTS_MAX:
        raise TooMuchToUndo(UNDO_JOB_EVENTS_MAX)
    return True


class UndoCommands:
    """Handles undo. Thread-safe; the clock is passed in."""

    def __init__(self, log: EventLog, *, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    def preview(
        self, scope: Scope, target: UndoTarget, *, authorise: Authorise = lambda permission: None
    ) -> UndoPlan:
        """The plan of an undo. Its steps are those of an undo that forces every conflict it can.

        Raises what `authorise` raises, `NothingToUndo`, `TooMuchToUndo`, `PartOfAWhole`.
        """
        with self._deciding(scope, is_preview=True) as decision:
            return decision.plan(target, authorise)

    def undo(
        self,
        scope: Scope,
        target: UndoTarget,
        *,
        force: Iterable[str] = (),
        authorise: Authorise = lambda permission: None,
    ) -> UndoOutcome:
        """Undo all of the events or none. Later changes of the fields in `force` are undone too.

        Raises what `preview` raises, and `NotUndoable`, `AlreadyUndone`, `UndoConflict`,
        `InvalidFields`, `NotAMember`, `TimeTaken`.
        """

        def decide() -> UndoOutcome:
            with self._deciding(scope) as decision:
                plan = decision.plan(target, authorise)
                plan.require_no_obstacle(force)
                return UndoOutcome(plan, self._record(decision.loaded, plan))

        return retry_on_conflict(decide)

    def undo_each(
        self, scope: Scope, command_id: str, positions: Sequence[int], *, force: Iterable[str] = ()
    ) -> list[UndoAttempt]:
        """Undo each of these events of a command on its own, the last one first.

        An event that cannot be undone is left as it is; its attempt has the refusal. An event that
        moves an entity to an account must come with the event before it.
        """

        def decide() -> list[UndoAttempt]:
            with self._deciding(scope) as decision:
                attempts = decision.attempts(command_id, positions, force)
                decision.loaded.append()
                return attempts

        return retry_on_conflict(decide)

    def preview_each(
        self, scope: Scope, command_id: str, positions: Sequence[int]
    ) -> list[UndoAttempt]:
        """The outcome of `undo_each`. Nothing is recorded."""
        with self._deciding(scope, is_preview=True) as decision:
            return decision.attempts(command_id, positions, ())

    def ends_move(self, scope: Scope, position: int) -> bool:
        """Whether the event moves an entity to an account. The event before it is the first half
        of the move."""
        with self._deciding(scope) as decision:
            found = decision.search.find([position])
            return any(getattr(each.event, "moved_from", None) for each in found)

    def require_ended(self, scope: Scope, job_id: UUID) -> None:
        """Check that the job of an operation has ended. Raises `OperationInProgress`."""
        with self._log.scoped(scope):
            job = self._log.load(Job, job_id)
        if job.is_open:
            raise OperationInProgress(job_id)

    @contextmanager
    def _deciding(self, scope: Scope, *, is_preview: bool = False) -> Iterator[_Decision]:
        with self._log.transaction(scope) as connection:
            search = EventSearch(connection, self._log.mapper, scope.workspace_id)
            yield _Decision(self._log, search, self._clock, is_preview=is_preview)

    def _record(self, loaded: LoadedEntities, plan: UndoPlan) -> int:
        stage_plan(loaded, plan)
        return loaded.append()


class _Decision:
    """One decision on an undo, within a transaction."""

    def __init__(
        self,
        log: EventLog,
        search: EventSearch,
        clock: Callable[[], datetime],
        *,
        is_preview: bool,
    ) -> None:
        self.search = search
        self._histories = EntityHistories(search)
        self.loaded = LoadedEntities(log, read=self._histories.states, is_preview=is_preview)
        self._clock = clock

    def plan(self, target: UndoTarget, authorise: Authorise) -> UndoPlan:
        events = _events_of(self.search, target)
        for permission in sorted({write_permission(_kind(each)) for each in events}):
            authorise(permission)
        irreversible = [each.position for each in events if each.event.IS_IRREVERSIBLE]
        if irreversible:
            return UndoPlan(irreversible, refusals=[NotUndoable(irreversible)])
        return self._planner(events).plan()

    def attempts(
        self, command_id: str, positions: Sequence[int], force: Iterable[str]
    ) -> list[UndoAttempt]:
        events = [each for each in self.search.find(positions) if _is_of(each, command_id)]
        return list(self._planner(events).attempt_each(force))

    def _planner(self, events: list[TracedEvent]) -> UndoPlanner:
        self._lock_accounts(events)
        return UndoPlanner(self.loaded, self._histories, events, self._clock())

    def _lock_accounts(self, events: list[TracedEvent]) -> None:
        """Lock accounts that undo deletes or restores, and those to which an entity returns."""
        exclusive: set[UUID] = set()
        shared: set[UUID | None] = set()
        for each in events:
            event = each.event
            if isinstance(event, EntityCreated | EntityDeleted | EntityRestored | EntityMerged):
                if _kind(each) is Account:
                    exclusive.add(each.stream_id)
                moved = (getattr(event, name, None) for name in ("moved_to", "moved_from"))
                shared.update((event.account_id, *moved))
        self.loaded.lock_accounts(exclusive=exclusive, shared=filter(None, shared))


def _events_of(search: EventSearch, target: UndoTarget) -> list[TracedEvent]:
    """The target's events in order, with those of children deleted or restored with an account.

    Raises `NothingToUndo`, `PartOfAWhole`, `TooMuchToUndo`.
    """
    found = {
        each.position: each
        for each in search.find(target.positions)
        if _is_of(each, target.command_id)
    }
    if not found:
        raise NothingToUndo(str(target))
    if target.command_id is None:
        for each in found.values():
            if AS_ONE in each.metadata:
                raise PartOfAWhole(each.metadata["commandId"])
    for each in [each for each in found.values() if _kind(each) is Account]:
        of_children: list[int] = []
        if isinstance(each.event, EntityDeleted):
            of_children = search.find_deleted_with(each)
        elif isinstance(each.event, EntityRestored):
            of_children = search.find_restored_with(each)
        missing = set(of_children) - found.keys()
        found.update((more.position, more) for more in search.find(missing))
    is_atomic = any(AS_ONE in each.metadata for each in found.values())
    limit = undo_events_max(is_atomic=is_atomic)
    if len(found) > limit:
        raise TooMuchToUndo(limit)
    return sorted(found.values(), key=lambda each: each.position)


def _kind(traced: TracedEvent) -> type[Entity]:
    return ENTITY_OF[traced.event.TOPIC]


def _is_of(traced: TracedEvent, command_id: str | None) -> bool:
    """Whether the event is one of an entity, and of this command if one is given."""
    is_of_command = command_id is None or traced.metadata.get("commandId") == command_id
    return is_of_command and traced.event.TOPIC in ENTITY_OF
