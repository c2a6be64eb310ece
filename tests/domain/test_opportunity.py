"""Opportunity: open deals move freely, won is final, lost can be reopened."""

from __future__ import annotations

import pytest

from domain.opportunity import Opportunity
from tests.support.examples import RENEWAL
from tests.support.spec import NOON, created, deleted, given, restored, updated, when_created
from tests.support.transitions import check_move, every_move

OPEN = "prospecting engaging proposal negotiating"
MAY_BECOME = dict.fromkeys(OPEN.split(), f"{OPEN} won lost") | {"won": "", "lost": OPEN}
# Staying is no move.
MAY_BECOME = {
    before: " ".join(after for after in allowed.split() if after != before)
    for before, allowed in MAY_BECOME.items()
}


@every_move(MAY_BECOME)
def test_stages(before: str, after: str) -> None:
    check_move(Opportunity, RENEWAL, before, after, MAY_BECOME)


@pytest.mark.parametrize("stage", MAY_BECOME)
def test_it_is_open_until_it_is_won_or_lost(stage: str) -> None:
    entity = given(Opportunity, created(Opportunity, {**RENEWAL, "stage": stage})).entity
    assert entity.is_open is (stage in OPEN.split())


def test_one_that_is_deleted_is_not_open_until_it_is_restored() -> None:
    history = [created(Opportunity, RENEWAL), deleted(Opportunity, RENEWAL)]
    assert not given(Opportunity, *history).entity.is_open
    assert given(Opportunity, *history, restored(Opportunity, RENEWAL)).entity.is_open


def test_one_that_is_won_can_still_be_described() -> None:
    won = {**RENEWAL, "stage": "won"}
    given(Opportunity, created(Opportunity, won)).when(
        lambda opportunity: opportunity.revise({**won, "closedOn": "2026-01-31"}, at=NOON)
    ).then(updated(Opportunity, closedOn=(None, "2026-01-31")))


def test_one_that_is_won_refuses_another_stage_and_with_it_everything_else() -> None:
    won = {**RENEWAL, "stage": "won"}
    outcome = given(Opportunity, created(Opportunity, won)).when(
        lambda opportunity: opportunity.revise({**won, "stage": "lost", "name": "x"}, at=NOON)
    )
    with pytest.raises(AssertionError, match="refused: A opportunity that is won"):
        outcome.then()


def test_an_import_may_create_one_in_any_stage_without_an_account() -> None:
    lost = {"name": "Old", "stage": "lost"}
    when_created(Opportunity, lost, account_id=None).then(created(Opportunity, lost))


def test_a_new_one_is_prospecting() -> None:
    when_created(Opportunity, {"name": "Renewal"}).then(
        created(Opportunity, {"name": "Renewal", "stage": "prospecting"})
    )
