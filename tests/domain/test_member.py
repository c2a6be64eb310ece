"""Member: a person who works in the workspace."""

from __future__ import annotations

from domain.member import Member
from tests.support.spec import created, deleted, given, when_created


def test_a_member_needs_only_a_name() -> None:
    when_created(Member, {"name": "Grace Hopper"}).then(created(Member, {"name": "Grace Hopper"}))
    when_created(Member, {}).then_invalid("name")


def test_a_deleted_member_keeps_the_name() -> None:
    grace = {"name": "Grace Hopper"}
    member = given(Member, created(Member, grace), deleted(Member, grace)).entity
    assert member.is_deleted
    assert member.values == grace
