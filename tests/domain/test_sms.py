"""SMS: receipts arrive late, twice and in any order; templates need their variables."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.shared.entity import EntityUpdated
from domain.shared.kinds import EVENTS
from domain.shared.phone import PhoneUnusable, to_e164
from domain.sms import (
    TEMPLATES,
    Sms,
    SmsStatus,
    TemplateId,
    VariableMissing,
    VariableUnknown,
    render,
    variables_of,
)
from tests.support.examples import REMINDER
from tests.support.spec import NOON, created, given, status_changed, updated, when_created

every_template = pytest.mark.parametrize("template_id", TemplateId)


def test_a_new_message_is_pending() -> None:
    fields = {name: value for name, value in REMINDER.items() if name != "status"}
    when_created(Sms, fields).then(created(Sms, REMINDER))


def test_the_gateway_id_is_recorded_with_the_status() -> None:
    given(Sms, created(Sms, REMINDER)).when(
        lambda sms: sms.record_status(SmsStatus.SENT, at=NOON, gateway_id="SM1")
    ).then(updated(Sms, gatewayId=(None, "SM1")), status_changed(Sms, "pending", "sent"))


def test_a_message_keeps_its_first_gateway_id() -> None:
    sent = {**REMINDER, "status": "sent", "gatewayId": "SM1"}
    given(Sms, created(Sms, sent)).when(
        lambda sms: sms.record_status(SmsStatus.DELIVERED, at=NOON, gateway_id="SM2")
    ).then(status_changed(Sms, "sent", "delivered"))
    given(Sms, created(Sms, sent)).when(
        lambda sms: sms.record_status(SmsStatus.SENT, at=NOON, gateway_id="SM2")
    ).then_nothing()


def test_a_late_receipt_still_records_a_missing_gateway_id() -> None:
    delivered = {**REMINDER, "status": "delivered"}
    given(Sms, created(Sms, delivered)).when(
        lambda sms: sms.record_status(SmsStatus.SENT, at=NOON, gateway_id="SM1")
    ).then(updated(Sms, gatewayId=(None, "SM1")))


def test_a_repeated_receipt_records_nothing() -> None:
    def twice(sms: Sms) -> None:
        sms.record_status(SmsStatus.DELIVERED, at=NOON)
        sms.record_status(SmsStatus.DELIVERED, at=NOON)

    given(Sms, created(Sms, REMINDER)).when(twice).then(status_changed(Sms, "pending", "delivered"))


def test_a_late_receipt_records_nothing() -> None:
    given(Sms, created(Sms, REMINDER), status_changed(Sms, "pending", "delivered")).when(
        lambda sms: sms.record_status(SmsStatus.SENT, at=NOON)
    ).then_nothing()


def test_a_delivery_removes_the_error_of_a_message_that_was_given_up() -> None:
    failed = {**REMINDER, "status": "failed", "error": "given up", "errorCode": "1"}
    given(Sms, created(Sms, failed)).when(
        lambda sms: sms.record_status(SmsStatus.DELIVERED, at=NOON)
    ).then(
        updated(Sms, error=("given up", None), errorCode=("1", None)),
        status_changed(Sms, "failed", "delivered"),
    )


@for_all(st.lists(st.sampled_from(SmsStatus), min_size=1, max_size=6), st.randoms())
def test_receipts_in_any_order_lead_to_the_same_status(
    receipts: list[SmsStatus], random: object
) -> None:
    def after(order: list[SmsStatus]) -> str | None:
        sms = given(Sms, created(Sms, REMINDER)).entity
        for status in order:
            sms.record_status(status, at=NOON)
        return sms.status

    shuffled = sorted(receipts, key=lambda _: random.random())  # type: ignore[attr-defined]
    expected = max(receipts, key=_precedence)
    assert after(receipts) == after(shuffled) == after([*receipts, *shuffled]) == expected


def _precedence(status: SmsStatus) -> int:
    return ["pending", "sent", "failed", "undelivered", "delivered"].index(status)


def test_statuses_only_change_in_order_of_precedence() -> None:
    for before, after in pairwise(SmsStatus):
        assert after in Sms.TRANSITIONS[before]
        assert before not in Sms.TRANSITIONS[after]


def test_events_of_sending_are_irreversible() -> None:
    irreversible = {
        topic
        for topic, event in EVENTS.items()
        if topic.startswith("sms.") and event.IS_IRREVERSIBLE
    }
    assert irreversible == {"sms.created", "sms.updated", "sms.status_changed"}
    assert issubclass(EVENTS["sms.updated"], EntityUpdated)


@every_template
def test_a_template_is_filled_with_its_variables(template_id: TemplateId) -> None:
    text = render(template_id, {name: f"<{name}>" for name in variables_of(template_id)})
    assert text == TEMPLATES[template_id].replace("{", "<").replace("}", ">")


@every_template
def test_each_missing_variable_is_named(template_id: TemplateId) -> None:
    for name in variables_of(template_id):
        others = dict.fromkeys(variables_of(template_id) - {name}, "x")
        with pytest.raises(VariableMissing) as refused:
            render(template_id, others)
        assert refused.value == VariableMissing(template_id, [name])


@every_template
def test_each_unknown_variable_is_named(template_id: TemplateId) -> None:
    variables = dict.fromkeys(variables_of(template_id), "x") | {"colour": "red"}
    with pytest.raises(VariableUnknown) as refused:
        render(template_id, variables)
    assert refused.value == VariableUnknown(template_id, ["colour"])


def test_the_value_of_a_variable_is_not_a_template() -> None:
    text = render(TemplateId.FOLLOW_UP, {"name": "{message}", "message": "{0.__class__}"})
    assert text == "Hello {message}, {0.__class__}"


@pytest.mark.parametrize(
    ("phone", "region", "expected"),
    [
        ("+44 20 7946 0000", None, "+442079460000"),
        ("+1 (415) 555-2671", None, "+14155552671"),
        ("020 7946 0000", "GB", "+442079460000"),
        ("(415) 555-2671", "US", "+14155552671"),
    ],
)
def test_phone_numbers_are_converted_to_e164(phone: str, region: str | None, expected: str) -> None:
    assert to_e164(phone, region) == expected


@pytest.mark.parametrize(
    ("phone", "region"),
    [("020 7946 0000", None), ("112", "GB"), ("555-0100", "US"), ("+1", None), ("xyz", "US")],
)
def test_an_unusable_phone_number_is_refused(phone: str, region: str | None) -> None:
    with pytest.raises(PhoneUnusable):
        to_e164(phone, region)
