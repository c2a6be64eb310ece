"""Twilio's REST API for messages, and its signed delivery receipts.

Messages: POST /2010-04-01/Accounts/{AccountSid}/Messages.json, a form, with HTTP basic
authentication. Signature: base64 of HMAC-SHA1, under the auth token, of the URL as Twilio calls it
followed by each parameter of the form, name and value, in order of names (Twilio, "Security").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlencode
from uuid import UUID

import httpx

from commands.delivery.gateway import GatewayRefused, GatewayUnavailable, OutgoingSms
from domain.sms import SmsStatus

RECEIPTS_PATH = "/api/sms/receipts"
IDEMPOTENCY_TOKEN = "I-Twilio-Idempotency-Token"
CONNECT_TIMEOUT_S = 3.0
SERVICE_PREFIX = "MG"
RATE_LIMIT_CODES = frozenset({20429, 14107, 30022})
"""Error codes that mean a temporary limit, independent of the HTTP status."""

STATUS_OF = {
    "sent": SmsStatus.SENT,
    "delivered": SmsStatus.DELIVERED,
    "read": SmsStatus.DELIVERED,
    "undelivered": SmsStatus.UNDELIVERED,
    "failed": SmsStatus.FAILED,
    "canceled": SmsStatus.FAILED,
}
"""Twilio's MessageStatus. Other values (queued, sending, …) carry no new information."""


@dataclass(frozen=True)
class Twilio:
    """A Twilio account, and the address at which Twilio reaches this API."""

    url: str
    account: str
    token: str
    sender: str
    public_url: str | None = None

    def receipts_url(self, workspace_id: UUID, sms_id: UUID) -> str | None:
        """Return the URL for receipts of this message. Twilio signs it, so it cannot be forged."""
        if self.public_url is None:
            return None
        query = urlencode({"workspaceId": str(workspace_id), "smsId": str(sms_id)})
        return f"{self.public_url}{RECEIPTS_PATH}?{query}"


class TwilioGateway:
    """Sends messages through Twilio."""

    def __init__(self, twilio: Twilio, *, timeout_s: float) -> None:
        self._twilio = twilio
        self._client = httpx.Client(
            base_url=twilio.url,
            auth=(twilio.account, twilio.token),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        )

    def send(self, sms: OutgoingSms) -> str:
        """Send a message and return its SID. Raises `GatewayRefused`, `GatewayUnavailable`."""
        try:
            response = self._client.post(
                f"/2010-04-01/Accounts/{self._twilio.account}/Messages.json",
                data=self._form(sms),
                headers={IDEMPOTENCY_TOKEN: str(sms.id)},
            )
        except httpx.TransportError as error:
            raise GatewayUnavailable(f"Twilio does not answer ({type(error).__name__})") from error
        if response.is_success:
            return _sid(response)
        raise _failure(response)

    def _form(self, sms: OutgoingSms) -> dict[str, str]:
        twilio = self._twilio
        is_service = twilio.sender.startswith(SERVICE_PREFIX)
        form = {"To": sms.to, "Body": sms.message}
        form["MessagingServiceSid" if is_service else "From"] = twilio.sender
        receipts_url = twilio.receipts_url(sms.workspace_id, sms.id)
        return {**form, "StatusCallback": receipts_url} if receipts_url else form


def signature(token: str, url: str, form: Iterable[tuple[str, str]]) -> str:
    """Return X-Twilio-Signature of a request to this URL with this form."""
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), hashlib.sha1)).decode()


def is_signed(token: str, url: str, form: Iterable[tuple[str, str]], given: str) -> bool:
    """Whether the signature is correct, compared in constant time."""
    return hmac.compare_digest(signature(token, url, form).encode(), given.encode())


@dataclass(frozen=True)
class Receipt:
    """A delivery receipt: the status of a message, and details for `SmsCommands.record_status`."""

    status: SmsStatus
    details: dict[str, str | None]


def parse_receipt(form: Iterable[tuple[str, str]]) -> Receipt | None:
    """Parse a receipt; None if its status carries no new information."""
    values = dict(form)
    status = STATUS_OF.get(values.get("MessageStatus", ""))
    if status is None:
        return None
    details = {"gateway_id": values.get("MessageSid") or None}
    if code := values.get("ErrorCode"):
        details |= {"error": f"the gateway reports error {code}", "error_code": code}
    return Receipt(status, details)


def _sid(response: httpx.Response) -> str:
    try:
        return str(response.json()["sid"])
    except (ValueError, KeyError, TypeError):
        raise GatewayUnavailable("Twilio's answer cannot be read") from None


def _failure(response: httpx.Response) -> GatewayRefused | GatewayUnavailable:
    """Return the error: a message that Twilio will never accept (400), or a temporary failure.

    Wrong credentials count as temporary: once they are corrected, waiting messages are sent.
    """
    code, message = _error_of(response)
    if response.status_code == HTTPStatus.BAD_REQUEST and code not in RATE_LIMIT_CODES:
        return GatewayRefused(message, str(code) if code else None)
    reason = f"Twilio answers {response.status_code}: {message}"
    return GatewayUnavailable(reason, retry_after_s=_retry_after_s(response))


def _error_of(response: httpx.Response) -> tuple[int, str]:
    try:
        error = response.json()
        return int(error.get("code") or 0), str(error.get("message") or "no reason was given")
    except (ValueError, TypeError, AttributeError):
        return 0, "no reason was given"


def _retry_after_s(response: httpx.Response) -> float:
    """Return Retry-After in seconds. A date, which Twilio does not send, is ignored."""
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdecimal() else 0.0
