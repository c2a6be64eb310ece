"""Phone numbers in the form that gateways accept: E.164, `+442079460000`."""

from __future__ import annotations

from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneNumberFormat, ValidationResult

from domain.shared.refusals import Refusal


@dataclass
class PhoneUnusable(Refusal):
    """No message can be sent to this phone number."""

    phone: str


def to_e164(phone: str, region: str | None = None) -> str:
    """The number in E.164 (ITU-T), without extension.

    region: ISO 3166 code of the country in which a number without `+` is dialled. Only the length
    is checked, because assignments of numbers change weekly. Raises `PhoneUnusable`.
    """
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        raise PhoneUnusable(phone) from None
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        raise PhoneUnusable(phone)
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)
