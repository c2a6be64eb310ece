"""A worker that kills itself: `python -m tests.support.crashing_worker <when> <step> <items>`.

when: `writing`, after the step is written and before it is committed; `committed`, right after the
commit. items: the maximum number of items of a step.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from typing import Any
from unittest import mock

from commands.bulk import BulkWork
from commands.jobs import runs
from commands.jobs.job_store import save_errors
from commands.jobs.runs import JobRun
from runtime.settings import Settings
from server.processes.worker import run_worker

commit_step = JobRun._commit_step


def die_at(step: int) -> Any:
    """Return a function to call in each step; in this step it kills the process with SIGKILL."""
    steps = count(1)

    def die() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


if __name__ == "__main__":
    when, step, items = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    die = die_at(step)

    def save_errors_and_die(*arguments: Any) -> None:
        """Call save_errors, the last statement of a step, then die before the commit."""
        save_errors(*arguments)
        die()

    def commit_and_die(run: JobRun, act: Any) -> None:
        """Call JobRun._commit_step, then die before the process learns of the commit."""
        commit_step(run, act)
        die()

    BulkWork.LIMIT = items
    if when == "writing":
        mock.patch.object(runs, "save_errors", save_errors_and_die).start()
    else:
        mock.patch.object(JobRun, "_commit_step", commit_and_die).start()
    run_worker(Settings())
