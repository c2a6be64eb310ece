"""What an entity's fields name in its workspace: members, and entities of other kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.kinds import KINDS
from domain.shared.refusals import NotAMember, NotFound, ReferenceUnavailable
from eventlog.store.log import EventLog

MEMBER_FIELDS = ("assignedTo", "memberId")
"""Fields that name a member, who has to be one when the field is set."""


def require_links(
    log: EventLog,
    kind: type[Entity],
    before: FieldValues | None,
    after: FieldValues,
    *,
    known: Callable[[UUID], bool] | None = None,
) -> None:
    """What the fields name, where they name something else than before, is there.

    `known` says who is a member where that is asked for many entities; without it the log does.
    Within a scope of the log. Raises `NotAMember`, `ReferenceUnavailable`.
    """
    require_members(log, before, after, known=known)
    for name, referred in kind.REFERENCES.items():
        if (named := _newly_named(name, before, after)) is not None:
            _require_reference(log, name, referred, named)


def require_members(
    log: EventLog,
    before: FieldValues | None,
    after: FieldValues,
    *,
    known: Callable[[UUID], bool] | None = None,
) -> None:
    """Whoever is named in `after`, and was not in `before`, is a member. Raises `NotAMember`."""
    known = known or partial(is_member, log)
    for name in MEMBER_FIELDS:
        named = _newly_named(name, before, after)
        if named is not None and not known(named):
            raise NotAMember(named)


def is_member(log: EventLog, member_id: UUID) -> bool:
    """Whether there is such a member now. Within a scope of the log."""
    try:
        return not log.load(Member, member_id).is_deleted
    except NotFound:
        return False


def _newly_named(name: str, before: FieldValues | None, after: FieldValues) -> UUID | None:
    named = after.get(name)
    return UUID(named) if named is not None and (before or {}).get(name) != named else None


def _require_reference(log: EventLog, name: str, kind: str, entity_id: UUID) -> None:
    try:
        entity = log.load(KINDS[kind], entity_id)
    except NotFound:
        raise ReferenceUnavailable(name, kind, entity_id) from None
    if entity.is_deleted:
        raise ReferenceUnavailable(name, kind, entity_id)
