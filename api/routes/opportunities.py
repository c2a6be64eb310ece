"""/api/opportunities."""

from __future__ import annotations

from api.entities.routes import entity_routes
from api.http.openapi.examples import EXAMPLE_ID
from domain.opportunity import Opportunity

ROUTER = entity_routes(
    Opportunity,
    example={"name": "Renewal 2027", "value": "48000.00", "accountId": EXAMPLE_ID},
    reads=("accounts",),
)
