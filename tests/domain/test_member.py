"""Member: a person who works in the workspace."""

from __future__ import annotations

from domain.member import Member
from tests.support.spec import created, deleted, given, when_created


def test_a_member_needs_a_name_and_nothing_else() -> None:
    when_created(Member, {"name": "Grace Hopper"}).then(created(Member, {"name": "Grace Hopper"}))
    when_created(Member, {}).then_invalid("name")


def test_one_who_left_keeps_the_name() -> None:
    grace = {"name": "Grace Hopper"}
    left = given(Member, created(Member, grace), deleted(Member, grace)).entity
    assert left.is_deleted
    assert left.values == grace
