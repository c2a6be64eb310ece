"""/api/leads."""

from __future__ import annotations

from api.entity_routes import entity_routes
from domain.lead import Lead

ROUTER = entity_routes(
    Lead,
    example={"name": "Ada Lovelace", "company": "Analytical Engines", "source": "website"},
)
