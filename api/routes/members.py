"""/api/members."""

from __future__ import annotations

from api.entities.routes import entity_routes
from domain.member import Member

ROUTER = entity_routes(
    Member,
    example={"name": "Grace Hopper", "email": "grace@example.com"},
)
