"""The routes that every kind of entity has, generated from the aggregate and from its list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from api.entities.export import add_list_export
from api.entities.history import add_history
from api.entities.reading import add_get, add_list
from api.entities.resource import EntityResource
from api.entities.writing import add_change, add_create, add_delete, add_restore
from domain.shared.entity import Entity
from readmodels.lists import LISTS


def entity_routes(
    kind: type[Entity], *, example: Mapping[str, Any], reads: tuple[str, ...] = ()
) -> APIRouter:
    """Return a router with all routes of one kind, under /api/<plural>.

    `reads` names the projections that lists of this kind join besides its own and `members`.
    """
    spec = LISTS[kind.PLURAL]
    # Names of people come from members.
    projections = tuple(sorted({kind.PLURAL, "members", *reads}))
    resource = EntityResource(kind, example, projections, spec)
    router = APIRouter(prefix=f"/api/{kind.PLURAL}", tags=[kind.PLURAL])
    add_create(router, resource)
    add_list(router, resource)
    add_list_export(router, kind, spec, projections)
    for add_route in (add_get, add_history, add_change, add_delete, add_restore):
        add_route(router, resource)
    return router
