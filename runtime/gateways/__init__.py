"""Adapters to gateways of text messages: which one is used is a setting."""

from __future__ import annotations

from commands.delivery.gateway import SmsGateway
from runtime.gateways.log_only import LoggingGateway
from runtime.gateways.twilio import Twilio, TwilioGateway
from runtime.settings import Settings


class GatewaySettingsError(Exception):
    """The settings of the gateway are not complete; the message is one sentence."""


def gateway_of(settings: Settings) -> SmsGateway:
    """The gateway as the settings have it. Raises `GatewaySettingsError`."""
    if settings.sms_gateway == "log":
        return LoggingGateway()
    return TwilioGateway(twilio_of(settings), timeout_s=settings.sms_timeout_s)


def twilio_of(settings: Settings) -> Twilio:
    """Twilio's part of the settings. Raises `GatewaySettingsError` where some of it is missing."""
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
