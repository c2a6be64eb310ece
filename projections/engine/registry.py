"""The projections there are, found by looking: each module of this package may define one."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType, ModuleType

import projections
from projections import changes, lifecycle
from projections.changes import Projection

VERSION_CHARS = 12


def _modules() -> dict[str, ModuleType]:
    found = {}
    for info in pkgutil.iter_modules(projections.__path__, "projections."):
        if info.ispkg:
            continue
        module = importlib.import_module(info.name)
        projection = getattr(module, "PROJECTION", None)
        if isinstance(projection, Projection):
            found[projection.name] = module
    return dict(sorted(found.items()))


_MODULES = _modules()

PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {name: module.PROJECTION for name, module in _MODULES.items()}
)
"""All projections by name."""


def version(name: str, table_definition: str) -> str:
    """A digest of the projection's code and of its tables: it changes when the rows may."""
    digest = hashlib.sha256(table_definition.encode())
    for module in (changes, lifecycle, _MODULES[name]):
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()[:VERSION_CHARS]
