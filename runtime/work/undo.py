"""Undo of a whole operation as a job."""

from __future__ import annotations

from commands.jobs.work import JobContext
from commands.undo.commands import UndoCommands
from commands.undo.work import UndoWork
from readmodels.audit import last_positions_below

KIND = "undo"


def open_work(context: JobContext) -> UndoWork:
    """The work of a job with the parameters `{commandId, force, below}`."""
    undo = UndoCommands(context.log, clock=context.clock)
    return UndoWork(context, undo, last_positions_below)
