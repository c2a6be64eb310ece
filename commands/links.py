"""References of an entity that must exist: its account, members and entities of other kinds."""

from __future__ import annotations

from uuid import UUID

from commands.loaded import LoadedEntities
from domain.account import Account
from domain.member import Member
from domain.shared.entity import Entity
from domain.shared.fields import FieldValues
from domain.shared.kinds import KINDS
from domain.shared.refusals import AccountUnavailable, NotAMember, ReferenceUnavailable

MEMBER_FIELDS = ("assignedTo", "memberId")
"""Fields with the id of a member, who must exist when the field is set."""


def require_account(loaded: LoadedEntities, account_id: UUID) -> None:
    """Check that the account exists and is not deleted. Raises `AccountUnavailable`.

    The caller has locked it.
    """
    account = loaded.find(Account, account_id)
    if account is None or account.is_deleted:
        raise AccountUnavailable(account_id, account.merged_into if account else None)


def require_links(
    loaded: LoadedEntities,
    kind: type[Entity],
    before: FieldValues | None,
    after: FieldValues,
) -> None:
    """Check the members and entities that `after` refers to and `before` did not.

    Raises `NotAMember`, `ReferenceUnavailable`.
    """
    require_members(loaded, before, after)
    for name, referred_kind in kind.REFERENCES.items():
        new_id = _new_reference(name, before, after)
        if new_id is not None and not _exists(loaded, KINDS[referred_kind], new_id):
            raise ReferenceUnavailable(name, referred_kind, new_id)


def require_members(loaded: LoadedEntities, before: FieldValues | None, after: FieldValues) -> None:
    """Check the members that `after` names and `before` did not. Raises `NotAMember`."""
    for name in MEMBER_FIELDS:
        new_id = _new_reference(name, before, after)
        if new_id is not None and not is_member(loaded, new_id):
            raise NotAMember(new_id)


def is_member(loaded: LoadedEntities, member_id: UUID) -> bool:
    """Whether the member exists and has not left the workspace."""
    return _exists(loaded, Member, member_id)


def _exists(loaded: LoadedEntities, kind: type[Entity], entity_id: UUID) -> bool:
    entity = loaded.find(kind, entity_id)
    return entity is not None and not entity.is_deleted


def _new_reference(name: str, before: FieldValues | None, after: FieldValues) -> UUID | None:
    value = after.get(name)
    return UUID(value) if value is not None and (before or {}).get(name) != value else None
