"""How much of an event each role may see.

A route checks a permission before it responds, but a stream sends one event to callers with
different roles. The three visibilities correspond to GET /api/audit (permission AUDIT), …/history
(HISTORY) and the lists (READ).
"""

from __future__ import annotations

from enum import StrEnum

import orjson

from commands.permissions import PERMISSIONS, Permission
from domain.api_key import Role
from domain.shared.kinds import KINDS
from domain.workspace import Workspace
from readmodels.lists import LISTS


class Visibility(StrEnum):
    """How much of an event is shown."""

    TRAIL = "trail"
    """Everything that the audit trail has, IP addresses and user agents included."""
    HISTORY = "history"
    """The actor, and each field before and after."""
    NOTICE = "notice"
    """The names of the changed fields. Current values can be read, previous values cannot."""


TRAIL_ONLY = ("ip", "userAgent")
"""Members shown to callers who may read the audit trail."""
NOTICE_MEMBERS = (
    "position", "type", "kind", "entityId", "accountId", "version", "action",
    "occurredAt", "recordedAt",
)  # fmt: skip

READABLE_KINDS = frozenset(
    kind for kind, entity in KINDS.items() if entity.PLURAL in LISTS or entity is Workspace
)
"""Kinds that permission READ allows to list or get. Others (API keys) are in the trail only."""


def visibility_of(role: Role) -> Visibility:
    """Return how much of an event this role may see."""
    permissions = PERMISSIONS[role]
    if Permission.AUDIT in permissions:
        return Visibility.TRAIL
    return Visibility.HISTORY if Permission.HISTORY in permissions else Visibility.NOTICE


def visible_kinds(role: Role) -> frozenset[str]:
    """Return the kinds of entity whose events this role may see."""
    return frozenset(KINDS) if visibility_of(role) is Visibility.TRAIL else READABLE_KINDS


def redact(body: bytes, visibility: Visibility) -> bytes:
    """Reduce a fact, JSON with everything the trail has, to this visibility. Returns JSON."""
    if visibility is Visibility.TRAIL:
        return body
    fact = orjson.loads(body)
    if visibility is Visibility.HISTORY:
        return orjson.dumps({name: fact[name] for name in fact if name not in TRAIL_ONLY})
    notice = {name: fact[name] for name in NOTICE_MEMBERS}
    notice["changes"] = [{"field": change["field"]} for change in fact["changes"]]
    return orjson.dumps(notice)
