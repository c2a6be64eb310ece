"""Opportunity: any order of open stages; won is final, a lost deal can be reopened."""

from __future__ import annotations

import pytest

from domain.opportunity import Opportunity
from tests.support.examples import RENEWAL
from tests.support.spec import NOON, created, deleted, given, restored, updated, when_created
from tests.support.transitions import check_transition, every_transition

OPEN = "prospecting engaging proposal negotiating"
TRANSITIONS = dict.fromkeys(OPEN.split(), f"{OPEN} won lost") | {"won": "", "lost": OPEN}
TRANSITIONS = {
    before: " ".join(after for after in allowed.split() if after != before)
    for before, allowed in TRANSITIONS.items()
}


@every_transition(TRANSITIONS)
def test_each_change_of_the_stage_follows_the_table(before: str, after: str) -> None:
    check_transition(Opportunity, RENEWAL, before, after, TRANSITIONS)


@pytest.mark.parametrize("stage", TRANSITIONS)
def test_an_opportunity_is_open_until_it_is_won_or_lost(stage: str) -> None:
    entity = given(Opportunity, created(Opportunity, {**RENEWAL, "stage": stage})).entity
    assert entity.is_open is (stage in OPEN.split())


def test_a_deleted_opportunity_is_not_open_until_it_is_restored() -> None:
    history = [created(Opportunity, RENEWAL), deleted(Opportunity, RENEWAL)]
    assert not given(Opportunity, *history).entity.is_open
    assert given(Opportunity, *history, restored(Opportunity, RENEWAL)).entity.is_open


def test_a_won_opportunity_can_be_revised() -> None:
    won = {**RENEWAL, "stage": "won"}
    given(Opportunity, created(Opportunity, won)).when(
        lambda opportunity: opportunity.revise({**won, "closedOn": "2026-01-31"}, at=NOON)
    ).then(updated(Opportunity, closedOn=(None, "2026-01-31")))


def test_a_refused_stage_refuses_the_whole_revision() -> None:
    won = {**RENEWAL, "stage": "won"}
    outcome = given(Opportunity, created(Opportunity, won)).when(
        lambda opportunity: opportunity.revise({**won, "stage": "lost", "name": "x"}, at=NOON)
    )
    with pytest.raises(AssertionError, match="refused: The opportunity is won, which is final"):
        outcome.then()


def test_an_opportunity_can_be_created_in_any_stage_without_an_account() -> None:
    lost = {"name": "Old", "stage": "lost"}
    when_created(Opportunity, lost, account_id=None).then(created(Opportunity, lost))


def test_a_new_opportunity_is_prospecting() -> None:
    when_created(Opportunity, {"name": "Renewal"}).then(
        created(Opportunity, {"name": "Renewal", "stage": "prospecting"})
    )
