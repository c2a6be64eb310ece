"""/api/contacts."""

from __future__ import annotations

from api.description import EXAMPLE_ID
from api.entity_routes import entity_routes
from domain.contact import Contact

ROUTER = entity_routes(
    Contact,
    example={"name": "Ada Lovelace", "email": "ada@example.com", "accountId": EXAMPLE_ID},
    reads=("accounts",),
)
