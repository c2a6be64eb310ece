"""A worker that kills itself: `python -m tests.support.crashing_worker <when> <step> <items>`.

when: `writing`, after all of that step is written and before it is committed; `committed`, right
after the commit. Steps have at most this number of items.
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

keep = JobRun._commit_step


def die_at(step: int) -> Any:
    """Something to be called in each step, which is kill -9 in one of them."""
    steps = count(1)

    def die() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


if __name__ == "__main__":
    when, step, items = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    die = die_at(step)

    def save_errors_and_die(*arguments: Any) -> None:
        """As save_errors, the last that a step does; the commit never comes."""
        save_errors(*arguments)
        die()

    def keep_and_die(run: JobRun, act: Any) -> None:
        """As JobRun._commit_step; the process dies before it learns of the commit."""
        keep(run, act)
        die()

    BulkWork.LIMIT = items
    if when == "writing":
        mock.patch.object(runs, "save_errors", save_errors_and_die).start()
    else:
        mock.patch.object(JobRun, "_commit_step", keep_and_die).start()
    run_worker(Settings())
