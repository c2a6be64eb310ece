"""/api/notes."""

from __future__ import annotations

from api.description import EXAMPLE_ID
from api.entity_routes import entity_routes
from domain.note import Note

ROUTER = entity_routes(
    Note,
    example={"body": "Prefers to be called in the morning.", "accountId": EXAMPLE_ID},
    reads=("accounts",),
)
