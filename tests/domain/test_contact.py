"""Contact: a person at an account."""

from __future__ import annotations

import pytest

from domain.contact import Contact
from tests.support.examples import ADA_LOVELACE
from tests.support.spec import NOON, created, given, updated, when_created


def test_the_email_address_of_a_contact_can_be_changed() -> None:
    given(Contact, created(Contact, ADA_LOVELACE)).when(
        lambda contact: contact.revise({**ADA_LOVELACE, "email": "ada@example.org"}, at=NOON)
    ).then(updated(Contact, email=("ada@example.com", "ada@example.org")))


@pytest.mark.parametrize("email", ["ada", "ada@", "@example.com", "a b@example.com", ""])
def test_an_invalid_email_address_is_refused(email: str) -> None:
    when_created(Contact, {**ADA_LOVELACE, "email": email}).then_invalid("email")


@pytest.mark.parametrize("phone", ["+44 20 7946 0000", "(030) 123-45/67", "112", "5551234 x12"])
def test_a_phone_number_may_be_written_in_many_ways(phone: str) -> None:
    when_created(Contact, {**ADA_LOVELACE, "phone": phone}).then(
        created(Contact, {**ADA_LOVELACE, "phone": phone})
    )


@pytest.mark.parametrize("phone", ["", "12", "call me", "1" * 41, "112\n113"])
def test_an_invalid_phone_number_is_refused(phone: str) -> None:
    when_created(Contact, {**ADA_LOVELACE, "phone": phone}).then_invalid("phone")


def test_all_faults_of_a_contact_are_reported_together() -> None:
    when_created(Contact, {"email": "ada", "phone": "?", "title": ""}).then_invalid(
        "name", "email", "phone", "title"
    )
