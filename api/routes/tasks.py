"""/api/tasks."""

from __future__ import annotations

from api.entities.routes import entity_routes
from api.http.openapi.examples import EXAMPLE_ID
from domain.task import Task

ROUTER = entity_routes(
    Task,
    example={
        "title": "Call back about the offer",
        "dueDate": "2026-02-02",
        "accountId": EXAMPLE_ID,
    },
    reads=("accounts",),
)
