"""/api/notes."""

from __future__ import annotations

from api.entities.routes import entity_routes
from api.http.openapi.examples import EXAMPLE_ID
from domain.note import Note

ROUTER = entity_routes(
    Note,
    example={"body": "Prefers to be called in the morning.", "accountId": EXAMPLE_ID},
    reads=("accounts",),
)
