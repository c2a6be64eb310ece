"""Account: its statuses, and the fields of each type."""

from __future__ import annotations

from typing import Any

import pytest

from domain.account import Account
from domain.shared.fields import FieldValues
from tests.support.examples import ACME
from tests.support.spec import NOON, created, given, status_changed, updated, when_created
from tests.support.transitions import check_transition, every_transition

ANY = "prospect active on_hold inactive churned"
TRANSITIONS = dict.fromkeys(ANY.split(), ANY)
OF_TYPE = {
    "checkSize": ("investor", "50000.00"),
    "dealValue": ("customer", "1200.00"),
    "opportunity": ("partner", "Joint venture"),
}


@every_transition(TRANSITIONS)
def test_an_account_may_change_to_any_status(before: str, after: str) -> None:
    check_transition(Account, ACME, before, after, TRANSITIONS)


def test_a_change_to_the_same_status_records_nothing() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.change_status("prospect", at=NOON)
    ).then_nothing()


def test_an_unknown_status_is_invalid() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.change_status("asleep", at=NOON)
    ).then_invalid("status")


def test_a_new_account_is_a_prospect_of_medium_priority() -> None:
    when_created(Account, {"company": "  Acme ", "type": "customer"}).then(created(Account, ACME))


def test_fields_and_status_that_change_together_are_recorded_as_two_events() -> None:
    given(Account, created(Account, ACME)).when(
        lambda account: account.revise({**ACME, "status": "active", "priority": "high"}, at=NOON)
    ).then(
        updated(Account, priority=("medium", "high")), status_changed(Account, "prospect", "active")
    )


@pytest.mark.parametrize("type_", ["investor", "customer", "partner"])
@pytest.mark.parametrize("field", OF_TYPE)
def test_fields_of_one_type_are_refused_for_other_types(field: str, type_: str) -> None:
    of_type, value = OF_TYPE[field]
    outcome = when_created(Account, {**ACME, "type": type_, field: value})
    if type_ == of_type:
        outcome.then(created(Account, {**ACME, "type": type_, field: value}))
    else:
        outcome.then_invalid(field)


def test_the_type_changes_together_with_its_fields() -> None:
    customer: FieldValues = {**ACME, "dealValue": "1200.00"}
    investor: FieldValues = {**ACME, "type": "investor", "checkSize": "1200.00"}
    account = given(Account, created(Account, customer))
    account.when(
        lambda account: account.revise({**customer, "type": "investor"}, at=NOON)
    ).then_invalid("dealValue")
    account.when(lambda account: account.revise(investor, at=NOON)).then(
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
def test_an_invalid_amount_is_refused(amount: Any) -> None:
    when_created(Account, {**ACME, "dealValue": amount}).then_invalid("dealValue")


def test_the_same_amount_in_another_notation_is_no_change() -> None:
    values = {**ACME, "dealValue": "1200.00"}
    given(Account, created(Account, values)).when(
        lambda account: account.revise({**values, "dealValue": "1200"}, at=NOON)
    ).then_nothing()


@pytest.mark.parametrize("company", ["", "   ", "x" * 201, "a\0b", "\x07", "\ud800", None, 5])
def test_an_invalid_company_name_is_refused(company: Any) -> None:
    when_created(Account, {**ACME, "company": company}).then_invalid("company")


@pytest.mark.parametrize(
    "day", ["2026-02-30", "1899-12-31", "2201-01-01", "soon", "", "0", "86400", 0, 86400, 1.0]
)
def test_an_invalid_date_of_the_next_action_is_refused(day: Any) -> None:
    when_created(Account, {**ACME, "nextActionDate": day}).then_invalid("nextActionDate")


def test_all_faults_of_an_account_are_reported_together() -> None:
    faults = {"company": "", "type": "rival", "status": "asleep", "priority": 1, "next_action": ""}
    when_created(Account, faults).then_invalid(*faults)
