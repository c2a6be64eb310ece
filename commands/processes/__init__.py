"""Process managers. Each module of this package defines one as PROCESS and is found automatically.

A process is a pure function (`commands/process.py`). `commands/delivery/inbox.py`
follows the log for it; `commands/delivery/outbox.py` and `commands/delivery/sending.py` run its
commands.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from commands.process import Process


def _import_processes() -> dict[str, Process[Any]]:
    names = [info.name for info in pkgutil.iter_modules(__path__, f"{__name__}.")]
    found = [importlib.import_module(name).PROCESS for name in sorted(names)]
    return {process.name: process for process in found}


PROCESSES: Mapping[str, Process[Any]] = MappingProxyType(_import_processes())
"""All processes by name."""
