"""Undo of a large command as a job: its events one by one, the last one first.

In reverse order the children of an account are undone before the account is. A step undoes some
events and records the progress in one transaction. Events with conflicts are left as they are and
reported as errors of the job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from commands.jobs.work import JobContext, JobWork
from commands.undo.commands import UndoCommands
from commands.undo.plan import UndoAttempt
from domain.job import ItemError, JobStep
from domain.shared.kinds import ENTITY_OF
from domain.shared.refusals import UndoConflict
from eventlog.connections import Connection

KIND = "undo"

UNDO_STEP_EVENTS = 200
"""Maximum number of events per step, which then takes about 200 ms."""
CONFLICTS_SHOWN_MAX = 10
"""Maximum number of conflicts in the error of an item; the first ones are listed."""

PositionsBelow = Callable[[Connection, UUID, str, int, int], list[int]]
"""Returns the last positions of a command's events below a position, in descending order; called
with workspace, command, position and limit."""


def undo_parameters(command_id: str, last_position: int, force: Sequence[str]) -> dict[str, Any]:
    """The parameters of a job that undoes the command's events up to the last position."""
    return {"commandId": command_id, "force": list(force), "below": last_position + 1}


class UndoWork(JobWork):
    """Undoes a command; the items are its events. Parameters are those of `undo_parameters`."""

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
        """Undo the next events. The cursor is the last position and the number of events done."""
        positions, row = self._next(cursor, limit)
        if not positions:
            return JobStep(cursor, 0, done=True)
        attempts = self._undo.undo_each(
            self.context.scope, self._command_id, positions, force=self._force
        )
        failed = [each for each in attempts if each.refusal is not None]
        rows = {position: row + n for n, position in enumerate(positions, 1)}
        errors = [self._item_error(each, rows) for each in failed]
        failed_count = sum(len(each.targets) for each in failed)
        undone = sum(len(each.plan.steps) > 0 for each in attempts if each.refusal is None)
        return JobStep(
            [positions[-1], row + len(positions)],
            len(positions) - failed_count,
            failed_count,
            errors,
            counts={"changed": undone},
        )

    def skip(self, cursor: Any, error: Exception) -> JobStep:
        """Leave the next event as it is, and with the second half of a move the first half too."""
        positions, row = self._next(cursor, 1)
        failure = self.context.item_error(row + 1, error, position=positions[0])
        return JobStep([positions[-1], row + len(positions)], 0, len(positions), [failure])

    def _next(self, cursor: Any, limit: int) -> tuple[list[int], int]:
        """The next positions, descending, and the number of events before them.

        The two events of a move stay together.
        """
        below, row = cursor or (self.context.parameters["below"], 0)
        with self.context.log.transaction(self.context.scope) as connection:
            workspace_id = self.context.scope.workspace_id
            found = self._positions_below(
                connection, workspace_id, self._command_id, below, limit + 1
            )
            if len(found) > limit and not self._undo.ends_move(self.context.scope, found[-2]):
                found.pop()
        return found, row

    def _item_error(self, attempt: UndoAttempt, rows: dict[int, int]) -> ItemError:
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
                for each in refusal.conflicts[:CONFLICTS_SHOWN_MAX]
            ]
        return self.context.item_error(
            rows[target.position],
            refusal,
            position=target.position,
            entityType=ENTITY_OF[target.event.TOPIC].KIND,
            entityId=str(target.stream_id),
            **facts,
        )
