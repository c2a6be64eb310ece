"""/api/accounts."""

from __future__ import annotations

from api.entities.routes import entity_routes
from domain.account import Account

ROUTER = entity_routes(
    Account,
    example={"company": "Acme Corporation", "type": "customer", "dealValue": "120000.00"},
    reads=("contacts", "opportunities"),
)
