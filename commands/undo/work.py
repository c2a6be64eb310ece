"""Undo of a whole operation as a job: its events one by one, the last one first.

In reverse order what hangs on an account goes before the account does. A step takes some events
back and notes how far it came in one transaction; what somebody changed since stays and is named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from commands.jobs.work import JobContext, JobWork
from commands.undo.commands import UndoCommands
from commands.undo.plan import UndoAttempt
from domain.job import ItemError, JobStep
from domain.shared.kinds import ENTITY_OF
from domain.shared.refusals import UndoConflict
from eventlog.connections import Connection

UNDO_STEP_EVENTS = 200
"""Events of one step; some 200 ms."""
UNDO_JOB_EVENTS_MAX = 1_000_000
"""Most events that one undo takes back."""
CONFLICTS_TOLD_MAX = 10
"""Of one item; the first ones."""

PositionsBelow = Callable[[Connection, UUID, str, int, int], list[int]]
"""Of a command's events: the last ones below a position, in descending order."""


class UndoWork(JobWork):
    """Takes back a command; parameters `{commandId, force, below}`. Items are its events."""

    LIMIT = UNDO_STEP_EVENTS

    def __init__(
        self, context: JobContext, undo: UndoCommands, positions_below: PositionsBelow
    ) -> None:
        super().__init__(context)
        self._undo = undo
        self._positions_below = positions_below
        self._command_id: str = context.parameters["commandId"]
        self._force: list[str] = context.parameters["force"]

    def step(self, cursor: Any, limit: int) -> JobStep:
        """The next events. The cursor is the position of the last one, and how many are done."""
        positions, row = self._next(cursor, limit)
        if not positions:
            return JobStep(cursor, 0, done=True)
        attempts = self._undo.undo_each(
            self.context.scope, self._command_id, positions, force=self._force
        )
        failed = [each for each in attempts if each.refusal is not None]
        rows = {position: row + n for n, position in enumerate(positions, 1)}
        errors = [self._failure(each, rows) for each in failed]
        count = sum(len(each.targets) for each in failed)
        undone = sum(len(each.plan.steps) > 0 for each in attempts if each.refusal is None)
        return JobStep(
            [positions[-1], row + len(positions)],
            len(positions) - count,
            count,
            errors,
            counts={"changed": undone},
        )

    def skip(self, cursor: Any, error: Exception) -> JobStep:
        """The next event stays as it is; where it ends a move, so does the one that begins it."""
        positions, row = self._next(cursor, 1)
        failure = self.context.item_error(row + 1, error, position=positions[0])
        return JobStep([positions[-1], row + len(positions)], 0, len(positions), [failure])

    def _next(self, cursor: Any, limit: int) -> tuple[list[int], int]:
        """Positions, descending, and how many are done before them. A move is not divided."""
        below, row = cursor or (self.context.parameters["below"], 0)
        with self.context.log.transaction(self.context.scope) as connection:
            workspace_id = self.context.scope.workspace_id
            found = self._positions_below(
                connection, workspace_id, self._command_id, below, limit + 1
            )
            if len(found) > limit and not self._undo.ends_move(self.context.scope, found[-2]):
                found.pop()
        return found, row

    def _failure(self, attempt: UndoAttempt, rows: dict[int, int]) -> ItemError:
        target, refusal = attempt.targets[0], attempt.refusal
        assert refusal is not None
        facts: dict[str, Any] = {}
        if isinstance(refusal, UndoConflict):
            facts["conflicts"] = [
                {
                    "entityId": str(each.entity_id),
                    "field": each.field,
                    "position": each.position,
                    "actor": each.actor,
                    "canForce": each.can_force,
                }
                for each in refusal.conflicts[:CONFLICTS_TOLD_MAX]
            ]
        return self.context.item_error(
            rows[target.position],
            refusal,
            position=target.position,
            entityType=ENTITY_OF[target.event.TOPIC].KIND,
            entityId=str(target.stream_id),
            **facts,
        )
