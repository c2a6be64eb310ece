"""E-mail addresses: the pattern for usual ones and the library give the same verdict."""

from __future__ import annotations

from typing import Annotated

import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import EmailStr, Field, TypeAdapter, ValidationError

from domain.shared.fields import Email

OURS: TypeAdapter[str] = TypeAdapter(Email)
LIBRARY: TypeAdapter[str] = TypeAdapter(Annotated[EmailStr, Field(max_length=254)])

PARTS = st.sampled_from(
    [
        *("ada", "Ada", "x", "a_b", "a%b", "a+b", "a-b", "-", "--", "xn--", ".", "..", "@", " "),
        *("\n", "<", ">", '"', "é", "e\u0301", "ａ", "ß", "1", "com", "uk", "c", "m1", "COM"),
        *("a" * 62, "a" * 63, "a" * 64, "a-" * 40, "example", "co", "test", "de", "\u200d", "[1]"),
        *SPECIAL_USE_DOMAIN_NAMES,
        *CASE_INSENSITIVE_MAILBOX_NAMES,
        *(name.upper() for name in CASE_INSENSITIVE_MAILBOX_NAMES),
    ]
)
JOINED = st.lists(PARTS, min_size=1, max_size=5)
ADDRESSES = st.one_of(
    st.builds("{}@{}".format, JOINED.map("".join), JOINED.map(".".join)),
    st.builds("{}@{}.com".format, JOINED.map(".".join), JOINED.map("-".join)),
    st.builds("{}@{}.com".format, st.text(max_size=8), st.text(max_size=8)),
    st.emails(),
    st.text(max_size=12),
)


def verdict(adapter: TypeAdapter[str], address: str) -> str | list[str]:
    """The accepted address, or the messages of the refusal."""
    try:
        return adapter.validate_python(address)
    except ValidationError as refused:
        return [error["msg"] for error in refused.errors()]


@given(ADDRESSES)
@example("POSTMASTER@example.com")
@example("Ada.Lovelace@Example.COM")
@example("a@" + "b" * 63 + ".com")
@example("a@" + "b" * 64 + ".com")
@example("a" * 64 + "@b.com")
@example("a" * 65 + "@b.com")
@example("ada@sub.localhost")
@example("ada@xn--bcher-kva.example.com")
@example("ada@example.com\n")
def test_verdict_is_that_of_the_library(address: str) -> None:
    assert verdict(OURS, address) == verdict(LIBRARY, address)


def test_usual_address_does_not_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("email_validator.validate_email", fail)
    assert verdict(OURS, "ada.lovelace+crm@mail.example.co.uk") == (
        "ada.lovelace+crm@mail.example.co.uk"
    )
