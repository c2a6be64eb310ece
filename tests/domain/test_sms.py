"""Text messages: news of them come late, twice and in any order; templates want their variables."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given as example
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
from tests.support.spec import NOON, created, given, moved, updated, when_created

every_template = pytest.mark.parametrize("template_id", TemplateId)


def test_one_that_is_asked_for_is_pending() -> None:
    asked = {name: value for name, value in REMINDER.items() if name != "status"}
    when_created(Sms, asked).then(created(Sms, REMINDER))


def test_what_the_gateway_calls_it_is_recorded_with_the_status() -> None:
    given(Sms, created(Sms, REMINDER)).when(
        lambda sms: sms.record_status(SmsStatus.SENT, at=NOON, gateway_id="SM1")
    ).then(updated(Sms, gatewayId=(None, "SM1")), moved(Sms, "pending", "sent"))


def test_the_same_news_again_are_no_news() -> None:
    def twice(sms: Sms) -> None:
        sms.record_status(SmsStatus.DELIVERED, at=NOON)
        sms.record_status(SmsStatus.DELIVERED, at=NOON)

    given(Sms, created(Sms, REMINDER)).when(twice).then(moved(Sms, "pending", "delivered"))


def test_a_receipt_that_is_late_changes_nothing() -> None:
    given(Sms, created(Sms, REMINDER), moved(Sms, "pending", "delivered")).when(
        lambda sms: sms.record_status(SmsStatus.SENT, at=NOON)
    ).then_nothing()


def test_one_that_was_given_up_and_is_delivered_all_the_same_has_no_error() -> None:
    failed = {**REMINDER, "status": "failed", "error": "given up", "errorCode": "1"}
    given(Sms, created(Sms, failed)).when(
        lambda sms: sms.record_status(SmsStatus.DELIVERED, at=NOON)
    ).then(
        updated(Sms, error=("given up", None), errorCode=("1", None)),
        moved(Sms, "failed", "delivered"),
    )


@example(st.lists(st.sampled_from(SmsStatus), min_size=1, max_size=6), st.randoms())
def test_news_in_any_order_end_alike(news: list[SmsStatus], random: object) -> None:
    def after(order: list[SmsStatus]) -> str | None:
        sms = given(Sms, created(Sms, REMINDER)).entity
        for status in order:
            sms.record_status(status, at=NOON)
        return sms.status

    shuffled = sorted(news, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert after(news) == after(shuffled) == after([*news, *shuffled]) == max(news, key=_says)


def _says(status: SmsStatus) -> int:
    return ["pending", "sent", "failed", "undelivered", "delivered"].index(status)


def test_statuses_only_ever_say_more() -> None:
    for before, after in pairwise(SmsStatus):
        assert after in Sms.TRANSITIONS[before]
        assert before not in Sms.TRANSITIONS[after]


def test_what_is_sent_cannot_be_taken_back() -> None:
    final = {
        topic
        for topic, event in EVENTS.items()
        if topic.startswith("sms.") and event.IS_IRREVERSIBLE
    }
    assert final == {"sms.created", "sms.updated", "sms.status_changed"}
    assert issubclass(EVENTS["sms.updated"], EntityUpdated)


@every_template
def test_a_template_is_filled_with_its_variables(template_id: TemplateId) -> None:
    text = render(template_id, {name: f"<{name}>" for name in variables_of(template_id)})
    assert text == TEMPLATES[template_id].replace("{", "<").replace("}", ">")


@every_template
def test_a_template_names_each_variable_that_is_missing(template_id: TemplateId) -> None:
    for name in variables_of(template_id):
        others = dict.fromkeys(variables_of(template_id) - {name}, "x")
        with pytest.raises(VariableMissing) as refused:
            render(template_id, others)
        assert refused.value == VariableMissing(template_id, [name])


@every_template
def test_a_template_names_each_variable_that_it_does_not_have(template_id: TemplateId) -> None:
    given_ = dict.fromkeys(variables_of(template_id), "x") | {"colour": "red"}
    with pytest.raises(VariableUnknown) as refused:
        render(template_id, given_)
    assert refused.value == VariableUnknown(template_id, ["colour"])


def test_what_stands_in_a_variable_is_not_a_template() -> None:
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
def test_numbers_are_written_as_gateways_want_them(
    phone: str, region: str | None, expected: str
) -> None:
    assert to_e164(phone, region) == expected


@pytest.mark.parametrize(
    ("phone", "region"),
    [("020 7946 0000", None), ("112", "GB"), ("555-0100", "US"), ("+1", None), ("xyz", "US")],
)
def test_a_number_that_cannot_be_dialled_is_refused(phone: str, region: str | None) -> None:
    with pytest.raises(PhoneUnusable):
        to_e164(phone, region)
