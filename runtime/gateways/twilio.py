"""Twilio's REST API for messages, and the signature of its receipts.

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
"""Errors by which Twilio says "not now", whatever the HTTP status."""

STATUS_OF = {
    "sent": SmsStatus.SENT,
    "delivered": SmsStatus.DELIVERED,
    "read": SmsStatus.DELIVERED,
    "undelivered": SmsStatus.UNDELIVERED,
    "failed": SmsStatus.FAILED,
    "canceled": SmsStatus.FAILED,
}
"""Twilio's MessageStatus; others (queued, sending, …) say nothing that is not known already."""


@dataclass(frozen=True)
class Twilio:
    """An account, and where we are to be found by it."""

    url: str
    account: str
    token: str
    sender: str
    public_url: str | None = None

    def receipts_url(self, workspace_id: UUID, sms_id: UUID) -> str | None:
        """Where receipts of this message go. Signed as a whole, so nobody else can name it."""
        if self.public_url is None:
            return None
        query = urlencode({"workspaceId": str(workspace_id), "smsId": str(sms_id)})
        return f"{self.public_url}{RECEIPTS_PATH}?{query}"


class TwilioGateway:
    """Hands messages to Twilio."""

    def __init__(self, twilio: Twilio, *, timeout_s: float) -> None:
        self._twilio = twilio
        self._client = httpx.Client(
            base_url=twilio.url,
            auth=(twilio.account, twilio.token),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        )

    def send(self, sms: OutgoingSms) -> str:
        """Twilio's SID of the message. Raises `GatewayRefused`, `GatewayUnavailable`."""
        try:
            answer = self._client.post(
                f"/2010-04-01/Accounts/{self._twilio.account}/Messages.json",
                data=self._form(sms),
                headers={IDEMPOTENCY_TOKEN: str(sms.id)},
            )
        except httpx.TransportError as error:
            raise GatewayUnavailable(f"Twilio does not answer ({type(error).__name__})") from error
        if answer.is_success:
            return _sid(answer)
        raise _failure(answer)

    def _form(self, sms: OutgoingSms) -> dict[str, str]:
        twilio = self._twilio
        is_service = twilio.sender.startswith(SERVICE_PREFIX)
        form = {"To": sms.to, "Body": sms.message}
        form["MessagingServiceSid" if is_service else "From"] = twilio.sender
        receipts_url = twilio.receipts_url(sms.workspace_id, sms.id)
        return {**form, "StatusCallback": receipts_url} if receipts_url else form


def signature(token: str, url: str, form: Iterable[tuple[str, str]]) -> str:
    """X-Twilio-Signature of a request to this URL with this form."""
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), hashlib.sha1)).decode()


def is_signed(token: str, url: str, form: Iterable[tuple[str, str]], given: str) -> bool:
    """Whether the signature is right, compared in constant time."""
    return hmac.compare_digest(signature(token, url, form).encode(), given.encode())


def _sid(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["sid"])
    except (ValueError, KeyError, TypeError):
        raise GatewayUnavailable("Twilio's answer cannot be read") from None


def _failure(answer: httpx.Response) -> GatewayRefused | GatewayUnavailable:
    """A message that Twilio will never take (400), or a Twilio that cannot be used for now.

    Wrong credentials are the latter: mended, they let all that waits go out.
    """
    code, message = _error_of(answer)
    if answer.status_code == HTTPStatus.BAD_REQUEST and code not in RATE_LIMIT_CODES:
        return GatewayRefused(message, str(code) if code else None)
    reason = f"Twilio answers {answer.status_code}: {message}"
    return GatewayUnavailable(reason, retry_after_s=_retry_after_s(answer))


def _error_of(answer: httpx.Response) -> tuple[int, str]:
    try:
        told = answer.json()
        return int(told.get("code") or 0), str(told.get("message") or "no reason was given")
    except (ValueError, TypeError, AttributeError):
        return 0, "no reason was given"


def _retry_after_s(answer: httpx.Response) -> float:
    """Seconds; a date, which Twilio does not send, is not looked at."""
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdecimal() else 0.0
