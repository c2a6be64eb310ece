"""/api/tasks."""

from __future__ import annotations

from api.description import EXAMPLE_ID
from api.entity_routes import entity_routes
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
