"""/api/contacts."""

from __future__ import annotations

from api.entities.routes import entity_routes
from api.http.openapi.examples import EXAMPLE_ID
from domain.contact import Contact

ROUTER = entity_routes(
    Contact,
    example={"name": "Ada Lovelace", "email": "ada@example.com", "accountId": EXAMPLE_ID},
    reads=("accounts",),
)
