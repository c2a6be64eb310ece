"""The actions of the audit trail: create, update, delete, undo, merge and so on.

The column `action_topic` of an event has its topic, or `<kind>.<action>` if data or metadata decide
the action. A trigger sets it (eventlog/sql/0013_audit_columns.sql).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from domain.shared.kinds import EVENTS
from eventlog.upcast import upcasters_to

UNDO = "undo"
"""The action of events that undo another one."""
ACTIONS_BY_DATA = {"mergedInto": "merge", "movedTo": "move", "movedFrom": "move"}
"""The action of events whose data has one of these keys."""


def _actions() -> dict[str, str]:
    actions = {topic: event.ACTION for topic, event in EVENTS.items() if hasattr(event, "ACTION")}
    for topic, action in tuple(actions.items()):
        actions |= dict.fromkeys(upcasters_to({topic}), action)
    return actions


ACTIONS = _actions()
"""The action of events by topic, those of earlier versions included."""
ACTION_NAMES = tuple(sorted({*ACTIONS.values(), *ACTIONS_BY_DATA.values(), UNDO}))
ACTIONS_JSON = orjson.dumps(ACTIONS).decode()

KIND_OF = "split_part({row}.action_topic, '.', 1)"
ACTION_OF = """coalesce(%(actions)s::jsonb->>{row}.action_topic,
                  split_part({row}.action_topic, '.', 2))"""
KIND, ACTION = KIND_OF.format(row="e"), ACTION_OF.format(row="e")
"""SQL over a row `e` of the log; the parameter `actions` is ACTIONS_JSON."""


def action_of(topic: str, data: Mapping[str, Any]) -> str:
    """The action of an event that is no undo, by its topic and data."""
    for key, name in ACTIONS_BY_DATA.items():
        if data.get(key):
            return name
    return ACTIONS.get(topic) or topic.split(".")[1]
