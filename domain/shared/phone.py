"""Telephone numbers as gateways want them: E.164, `+442079460000`."""

from __future__ import annotations

from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneNumberFormat, ValidationResult

from domain.shared.refusals import Refusal


@dataclass
class PhoneUnusable(Refusal):
    """The telephone number cannot be sent to."""

    phone: str


def to_e164(phone: str, region: str | None = None) -> str:
    """The number in E.164 (ITU-T), without extension.

    region: ISO 3166 code of the country in which a number without `+` is dialled. Whether a number
    is given to somebody changes by the week; what is asked is whether it has a possible length.
    Raises `PhoneUnusable`.
    """
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        raise PhoneUnusable(phone) from None
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        raise PhoneUnusable(phone)
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)
