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
from eventlog.reading.part import UTC
from eventlog.reading.recorded import iso
from eventlog.upcast import upcasters_to
from projections.changes import Projection
from projections.engine.meaning import meaning, sql_meaning
from projections.engine.rows.copying import TableCopy, fill_counts
from projections.engine.rows.fold import ChangedRows, FoldedChange
from projections.engine.rows.memory import AppliedProjection, ListedRows, MemoryTables
from projections.engine.rows.statements import Statement

VERSION_CHARS = 12
ROW_CODE = (
    RecordedEvent,
    iso,
    UTC,
    event_digest,
    DIGEST_SQL,
    Projection,
    AppliedProjection,
    MemoryTables,
    ListedRows,
    ChangedRows,
    FoldedChange,
    Statement,
    TableCopy,
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
    """A digest of what a projection declares, which changes when its rows may change.

    It covers its tables, rules and handlers with everything that they use, including upcasters of
    older events, and the part of the engine that makes rows of changes, but no docstrings, comments
    and names of variables and functions.
    """
    return version_of(PROJECTIONS[name], table_definition)


def versions(table_definitions: Mapping[str, str]) -> dict[str, str]:
    """The version of each projection, from the definitions of all tables."""
    return {name: version(name, definition) for name, definition in table_definitions.items()}


def version_of(projection: Projection, table_definition: str) -> str:
    """The version of a projection that need not be registered."""
    digest = meaning(
        projection.tables,
        [(type(rule), rule) for rule in projection.rules],
        dict(sorted(projection.handlers.items())),
        projection.by_account,
        upcasters_to(projection.topics),
        sql_meaning(table_definition),
        _row_code(),
    )
    return digest[:VERSION_CHARS]


@cache
def _row_code() -> str:
    return meaning(*ROW_CODE)
