"""What of an event each role may see: the one place for whoever tells events as they happen.

The routes ask for a permission before they answer; a stream tells many roles of one event. So what
GET /api/audit (AUDIT), …/history (HISTORY) and the lists (READ) show stands here as three sights.
"""

from __future__ import annotations

from enum import StrEnum

import orjson

from api.http.auth import ROLES, Permission
from domain.api_key import Role
from domain.shared.kinds import KINDS
from domain.workspace import Workspace
from readmodels.lists import LISTS


class Visibility(StrEnum):
    """How much of an event is shown."""

    TRAIL = "trail"
    """All that the audit trail has, addresses and user agents among it."""
    HISTORY = "history"
    """Who and what, before and after."""
    NOTICE = "notice"
    """That it changed, and which fields: what is there now can be read, what was before cannot."""


ADDRESSES = ("ip", "userAgent")
"""For who may read the trail."""
IN_NOTICE = (
    "position", "type", "kind", "entityId", "accountId", "version", "action",
    "occurredAt", "recordedAt",
)  # fmt: skip

READABLE_KINDS = frozenset(
    kind for kind, entity in KINDS.items() if entity.PLURAL in LISTS or entity is Workspace
)
"""Kinds that whoever may READ can list or get. Of others (API keys) only the trail tells."""


def visibility_of(role: Role) -> Visibility:
    """How much this role sees."""
    if Permission.AUDIT in ROLES[role]:
        return Visibility.TRAIL
    return Visibility.HISTORY if Permission.HISTORY in ROLES[role] else Visibility.NOTICE


def visible_kinds(role: Role) -> frozenset[str]:
    """The kinds of entity of which this role hears."""
    return frozenset(KINDS) if visibility_of(role) is Visibility.TRAIL else READABLE_KINDS


def redact(body: bytes, sight: Visibility) -> bytes:
    """A fact, given with all that the trail has, as this sight shows it. JSON both."""
    if sight is Visibility.TRAIL:
        return body
    fact = orjson.loads(body)
    if sight is Visibility.HISTORY:
        return orjson.dumps({name: fact[name] for name in fact if name not in ADDRESSES})
    notice = {name: fact[name] for name in IN_NOTICE}
    notice["changes"] = [{"field": change["field"]} for change in fact["changes"]]
    return orjson.dumps(notice)
