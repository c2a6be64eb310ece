"""The projections: each module of `projections` may define one, which is found by import."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import projections
from eventlog.digest import DIGEST_SQL, event_digest
from eventlog.reading import RecordedEvent
from eventlog.reading.recorded import iso
from eventlog.upcast import upcasters_to
from projections.changes import Projection
from projections.engine.meaning import meaning, sql_meaning
from projections.engine.rows.copying import copy_rows, fill_counts
from projections.engine.rows.fold import fold, with_version
from projections.engine.rows.memory import MemoryTables
from projections.engine.rows.statements import Statement

VERSION_CHARS = 12
ROW_CODE = (
    RecordedEvent,
    iso,
    event_digest,
    DIGEST_SQL,
    Projection,
    with_version,
    fold,
    MemoryTables,
    Statement,
    copy_rows,
    fill_counts,
)
"""What the engine does with events and row changes of any projection, and so decides rows and
ledgers."""


def _projections() -> dict[str, Projection]:
    found = {}
    for info in pkgutil.iter_modules(projections.__path__, "projections."):
        if info.ispkg:
            continue
        projection = getattr(importlib.import_module(info.name), "PROJECTION", None)
        if isinstance(projection, Projection):
            found[projection.name] = projection
    return dict(sorted(found.items()))


PROJECTIONS: Mapping[str, Projection] = MappingProxyType(_projections())
"""All projections by name."""


def version(name: str, table_definition: str) -> str:
    """A digest of a projection's handlers and tables, which changes when its rows may change.

    It covers everything that handlers use, including upcasters of older events, and the part of the
    engine that makes rows of changes, but no docstrings, comments and names of variables and
    functions.
    """
    return version_of(PROJECTIONS[name], table_definition)


def versions(table_definitions: Mapping[str, str]) -> dict[str, str]:
    """The version of each projection, from the definitions of all tables."""
    return {name: version(name, definition) for name, definition in table_definitions.items()}


def version_of(projection: Projection, table_definition: str) -> str:
    """The version of a projection that need not be registered."""
    topics = None if projection.every else projection.handlers.keys()
    digest = meaning(
        projection.tables,
        dict(sorted(projection.handlers.items())),
        projection.every,
        projection.by_account,
        upcasters_to(topics),
        sql_meaning(table_definition),
        _row_code(),
    )
    return digest[:VERSION_CHARS]


@cache
def _row_code() -> str:
    return meaning(*ROW_CODE)
