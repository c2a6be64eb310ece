"""/api/meetings."""

from __future__ import annotations

from api.entities.routes import entity_routes
from api.http.openapi.examples import EXAMPLE_ID
from domain.meeting import Meeting

ROUTER = entity_routes(
    Meeting,
    example={"title": "Kick-off", "startsAt": "2026-02-02T09:00:00Z", "accountId": EXAMPLE_ID},
    reads=("accounts",),
)
