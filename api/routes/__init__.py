"""The routes, found by looking: each module of this package has a ROUTER."""

from __future__ import annotations

import importlib
import pkgutil

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """The routers of all modules here, by name of the module."""
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__, f"{__name__}."))
    return [importlib.import_module(name).ROUTER for name in modules]
