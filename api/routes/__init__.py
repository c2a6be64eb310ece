"""The routes of the API. Each module of this package defines a ROUTER."""

from __future__ import annotations

import importlib
import pkgutil

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """Return the routers of all modules in this package, sorted by module name."""
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__, f"{__name__}."))
    return [importlib.import_module(name).ROUTER for name in modules]
