"""The kinds of work that jobs do, found by looking: each module of this package is one.

A module has `KIND`, the name by which jobs are asked for, and `open_work(context)`, which makes the
work (`commands.jobs.work.Work`) for one turn on one job.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from commands.jobs.work import WorkFactory


def work_factories() -> Mapping[str, WorkFactory]:
    """What makes the work, by kind."""
    modules = (
        importlib.import_module(info.name)
        for info in pkgutil.iter_modules(__path__, f"{__name__}.")
    )
    return MappingProxyType({module.KIND: module.open_work for module in modules})
