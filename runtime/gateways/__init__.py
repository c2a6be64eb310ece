"""Adapters to SMS gateways. The setting `sms_gateway` selects one."""

from __future__ import annotations

from collections.abc import Iterable

from commands.delivery.gateway import SmsGateway
from runtime.gateways.log_only import LoggingGateway
from runtime.gateways.twilio import RECEIPTS_PATH, Twilio, TwilioGateway, is_signed
from runtime.settings import Settings


class GatewaySettingsError(Exception):
    """The settings of the gateway are incomplete; the message is one sentence."""


def gateway_of(settings: Settings) -> SmsGateway:
    """Return the gateway that the settings select. Raises `GatewaySettingsError`."""
    if settings.sms_gateway == "log":
        return LoggingGateway()
    return TwilioGateway(twilio_of(settings), timeout_s=settings.sms_timeout_s)


def twilio_of(settings: Settings) -> Twilio:
    """Return the settings of Twilio. Raises `GatewaySettingsError` if one is missing."""
    account, token = settings.sms_twilio_account, settings.sms_twilio_token
    if account is None or token is None or settings.sms_twilio_from is None:
        raise GatewaySettingsError(
            "ANNALS_SMS_GATEWAY=twilio needs ANNALS_SMS_TWILIO_ACCOUNT, ANNALS_SMS_TWILIO_TOKEN"
            " and ANNALS_SMS_TWILIO_FROM."
        )
    return Twilio(
        settings.sms_twilio_url.rstrip("/"),
        account,
        token,
        settings.sms_twilio_from,
        settings.sms_public_url.rstrip("/") if settings.sms_public_url else None,
    )


def is_receipt_signed(
    settings: Settings, query: str, form: Iterable[tuple[str, str]], signature: str
) -> bool:
    """Whether the configured gateway has signed this receipt.

    The signature covers the URL that the gateway was given, which a proxy may have rewritten, so
    the URL is built from the settings and the query of the request.
    """
    token, public_url = settings.sms_twilio_token, settings.sms_public_url
    if settings.sms_gateway != "twilio" or token is None or public_url is None:
        return False
    url = f"{public_url.rstrip('/')}{RECEIPTS_PATH}?{query}"
    return is_signed(token, url, form, signature)
