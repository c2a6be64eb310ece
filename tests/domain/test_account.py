"""Account: what it may become, and which fields go with which type."""

from __future__ import annotations

from typing import Any

import pytest

from domain.account import Account
from domain.shared.fields import FieldValues
from tests.support.examples import ACME
from tests.support.spec import NOON, created, given, moved, updated, when_created
from tests.support.transitions import check_move, every_move

ANY = "prospect active on_hold inactive churned"
MAY_BECOME = dict.fromkeys(ANY.split(), ANY)
OF_TYPE = {
    "checkSize": ("investor", "50000.00"),
    "dealValue": ("customer", "1200.00"),
    "opportunity": ("partner", "Joint venture"),
}


@every_move(MAY_BECOME)
def test_an_account_moves_freely(before: str, after: str) -> None:
    check_move(Account, ACME, before, after, MAY_BECOME)


def test_moving_to_the_status_that_it_has_records_nothing() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.change_status("prospect", at=NOON)
    ).then_nothing()


def test_a_status_that_there_is_not_is_invalid() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.change_status("asleep", at=NOON)
    ).then_invalid("status")


def test_a_new_account_is_a_prospect_of_medium_priority() -> None:
    when_created(Account, {"company": "  Acme ", "type": "customer"}).then(created(Account, ACME))


def test_fields_and_status_changed_at_once_are_told_apart() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.revise({**ACME, "status": "active", "priority": "high"}, at=NOON)
    ).then(updated(Account, priority=("medium", "high")), moved(Account, "prospect", "active"))


@pytest.mark.parametrize("type_", ["investor", "customer", "partner"])
@pytest.mark.parametrize("field", OF_TYPE)
def test_some_fields_are_for_one_type_only(field: str, type_: str) -> None:
    of_type, value = OF_TYPE[field]
    outcome = when_created(Account, {**ACME, "type": type_, field: value})
    if type_ == of_type:
        outcome.then(created(Account, {**ACME, "type": type_, field: value}))
    else:
        outcome.then_invalid("body")


def test_an_account_changes_its_type_together_with_the_fields_of_the_type() -> None:
    customer: FieldValues = {**ACME, "dealValue": "1200.00"}
    investor: FieldValues = {**ACME, "type": "investor", "checkSize": "1200.00"}
    known = given(Account, created(Account, customer))
    known.when(
        lambda account: account.revise({**customer, "type": "investor"}, at=NOON)
    ).then_invalid("body")
    known.when(lambda account: account.revise(investor, at=NOON)).then(
        updated(
            Account,
            type=("customer", "investor"),
            dealValue=("1200.00", None),
            checkSize=(None, "1200.00"),
        )
    )


@pytest.mark.parametrize(
    ("amount", "recorded"),
    [("1200", "1200.00"), (1200, "1200.00"), ("0.5", "0.50"), ("0", "0.00"), ("-0", "0.00")],
)
def test_money_is_recorded_with_two_decimals(amount: Any, recorded: str) -> None:
    when_created(Account, {**ACME, "dealValue": amount}).then(
        created(Account, {**ACME, "dealValue": recorded})
    )


@pytest.mark.parametrize("amount", ["-0.01", "0.001", "NaN", "Infinity", "1e17", "much", True])
def test_money_that_is_none_is_refused(amount: Any) -> None:
    when_created(Account, {**ACME, "dealValue": amount}).then_invalid("dealValue")


def test_the_same_amount_written_differently_is_no_change() -> None:
    known = {**ACME, "dealValue": "1200.00"}
    given(Account, created(Account, known)).when(
        lambda account: account.revise({**known, "dealValue": "1200"}, at=NOON)
    ).then_nothing()


@pytest.mark.parametrize("company", ["", "   ", "x" * 201, "a\0b", "\x07", "\ud800", None, 5])
def test_a_company_needs_a_name(company: Any) -> None:
    when_created(Account, {**ACME, "company": company}).then_invalid("company")


@pytest.mark.parametrize(
    "day", ["2026-02-30", "1899-12-31", "2201-01-01", "soon", "", "0", "86400", 0, 86400, 1.0]
)
def test_the_next_action_has_a_sensible_date(day: Any) -> None:
    when_created(Account, {**ACME, "nextActionDate": day}).then_invalid("nextActionDate")


def test_all_faults_of_an_account_are_told_at_once() -> None:
    faults = {"company": "", "type": "rival", "status": "asleep", "priority": 1, "next_action": ""}
    when_created(Account, faults).then_invalid(*faults)
