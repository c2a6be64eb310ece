"""The kinds of work that jobs do. Each module of this package defines one, and is found by import.

A module has `KIND`, the name by which a job is requested, and `open_work(context)`, which creates
the work (`commands.jobs.work.JobWork`) for one job run.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from commands.jobs.runs import JobEnvironment
from commands.jobs.work import WorkFactory
from runtime.composition import Writing, new_id
from runtime.errors import summarise_error


def work_factories() -> Mapping[str, WorkFactory]:
    """The functions that create work, by kind."""
    modules = (
        importlib.import_module(info.name)
        for info in pkgutil.iter_modules(__path__, f"{__name__}.")
    )
    return MappingProxyType({module.KIND: module.open_work for module in modules})


def job_environment(writing: Writing) -> JobEnvironment:
    """What runs of all kinds of jobs need."""
    return JobEnvironment(
        writing.log,
        writing.commands,
        work_factories(),
        summarise_error,
        clock=writing.now,
        new_id=new_id,
    )
