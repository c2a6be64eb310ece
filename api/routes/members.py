"""/api/members."""

from __future__ import annotations

from api.auth import Permission
from api.entity_routes import entity_routes
from domain.member import Member

ROUTER = entity_routes(
    Member,
    example={"name": "Grace Hopper", "email": "grace@example.com"},
    write=Permission.MEMBERS,
)
