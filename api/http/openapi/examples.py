"""Example values that several routes show in their descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXAMPLE_ID = "0199c0de-0000-7000-8000-000000000001"
EXAMPLE_OTHER_ID = "0199c0de-0000-7000-8000-000000000002"
EXAMPLE_TIME = "2026-01-31T12:00:00+00:00"
EXAMPLE_ACTOR = {"type": "api_key", "id": EXAMPLE_ID, "name": "Nightly sync"}
EXAMPLE_CHANGE = {"field": "nextAction", "before": None, "after": "Send the term sheet"}
EXAMPLE_EVENT: Mapping[str, Any] = {
    "position": 7,
    "version": 2,
    "action": "update",
    "undoes": None,
    "undoesPosition": None,
    "actor": EXAMPLE_ACTOR,
    "keyId": EXAMPLE_ID,
    "occurredAt": EXAMPLE_TIME,
    "recordedAt": EXAMPLE_TIME,
    "requestId": EXAMPLE_ID,
    "commandId": EXAMPLE_ID,
    "causationId": None,
    "changes": [EXAMPLE_CHANGE],
    "details": {},
}


def one_page(item: Mapping[str, Any]) -> dict[str, Any]:
    """An example of a page with this item, after which there is no other one."""
    return {"items": [item], "nextCursor": None}


NULL_MARK = "\0"
"""Stands for null in examples until the document is generated: the framework drops nulls."""


def with_marks(example: Any) -> Any:
    """Return an example whose nulls the framework keeps."""
    return _replaced(example, None, NULL_MARK)


def without_marks(example: Any) -> Any:
    """Return the example as it was given to `with_marks`."""
    return _replaced(example, NULL_MARK, None)


def _replaced(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _replaced(each, old, new) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, old, new) for each in value]
    return new if value == old else value
