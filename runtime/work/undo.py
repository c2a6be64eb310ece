"""Undo of a large command as a job."""

from __future__ import annotations

from commands.jobs.work import JobContext
from commands.undo.commands import UndoCommands
from commands.undo.work import KIND, UndoWork
from readmodels.audit import last_positions_below

__all__ = ["KIND", "open_work"]


def open_work(context: JobContext) -> UndoWork:
    """Create the work of an undo job."""
    undo = UndoCommands(context.log, clock=context.clock)
    return UndoWork(context, undo, last_positions_below)
