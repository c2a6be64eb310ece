"""Example values that several routes show in their descriptions."""

from __future__ import annotations

EXAMPLE_ID = "0199c0de-0000-7000-8000-000000000001"
EXAMPLE_OTHER_ID = "0199c0de-0000-7000-8000-000000000002"
EXAMPLE_TIME = "2026-01-31T12:00:00+00:00"
EXAMPLE_ACTOR = {"type": "api_key", "id": EXAMPLE_ID, "name": "Nightly sync"}
EXAMPLE_CHANGE = {"field": "nextAction", "before": None, "after": "Send the term sheet"}
