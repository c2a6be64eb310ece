"""A server of Twilio's REST API for messages that signs receipts and fails on request.

Like Twilio, it keeps one message for each idempotency token, however many calls carry the token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import httpx

ACCOUNT = "AC00000000000000000000000000000001"
TOKEN = "12345678901234567890123456789012"
NUMBER = "+15005550006"
MESSAGES_PATH = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
LONG_S = 30.0
INVALID_NUMBER = "+15005550001"
"""Twilio's own number for tests: every message to it is refused (21211)."""

Fault = Literal["timeout", "lost", "cut", "429", "500", "503", "401"]
"""timeout: not accepted, no answer. lost: accepted, no answer. cut: accepted, connection cut."""


@dataclass
class Message:
    """A message that the server accepted."""

    sid: str
    form: dict[str, str]
    token: str
    calls: int = 1


@dataclass
class FakeTwilio:
    """The state of the server: accepted messages, recorded calls, and faults to come."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    """Faults of the next calls, in order; later calls succeed."""
    down: Fault | None = None
    """Fault of every call while it is set."""
    retry_after_s: int = 1
    messages: dict[str, Message] = field(default_factory=dict)
    """By idempotency token."""
    calls: list[tuple[float, str, str]] = field(default_factory=list)
    """Time, token and fault (or `ok`) of each call."""
    refusals: list[str] = field(default_factory=list)
    """The faults found in invalid calls."""
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def settings(self) -> dict[str, Any]:
        """Return settings that make Annals use this server."""
        return {
            "sms_gateway": "twilio",
            "sms_twilio_url": self.url,
            "sms_twilio_account": ACCOUNT,
            "sms_twilio_token": TOKEN,
            "sms_twilio_from": NUMBER,
        }

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables."""
        return {f"ANNALS_{name.upper()}": str(value) for name, value in self.settings().items()}

    def take(self, form: dict[str, str], token: str) -> Message:
        """Accept a message, once for each token."""
        with self.lock:
            if token in self.messages:
                self.messages[token].calls += 1
            else:
                sid = f"SM{next(self.numbers):032x}"
                self.messages[token] = Message(sid, form, token)
            return self.messages[token]

    def next_fault(self) -> Fault | None:
        """Return the fault of the next call."""
        with self.lock:
            return self.faults.pop(0) if self.faults else self.down

    def receipt(
        self, message: Message, status: str, *, signed_by: str = TOKEN, **more: str
    ) -> httpx.Response:
        """Send the message's status to its callback URL; return the response."""
        url = message.form["StatusCallback"]
        form = {"MessageSid": message.sid, "MessageStatus": status, "AccountSid": ACCOUNT, **more}
        headers = {"X-Twilio-Signature": sign(signed_by, url, form)}
        return httpx.post(url, data=form, headers=headers, verify=False)


def sign(token: str, url: str, form: dict[str, str]) -> str:
    """Return the signature of a form, as Twilio documents it; written a second time."""
    text = url
    for name in sorted(form):
        text += name + form[name]
    mac = hmac.new(token.encode(), text.encode(), hashlib.sha1)
    return base64.b64encode(mac.digest()).decode()


class _Handler(BaseHTTPRequestHandler):
    """POST /2010-04-01/Accounts/{AccountSid}/Messages.json."""

    twilio: FakeTwilio

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        if len(body) < length:  # the client died while sending: this is no call
            self.close_connection = True
            return
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        token = self.headers.get("I-Twilio-Idempotency-Token", "")
        fault = self.twilio.next_fault()
        self.twilio.calls.append((time.monotonic(), token, fault or "ok"))
        if wrong := self._wrong(form, token):
            self.twilio.refusals.append(wrong)
            self._answer(400, {"code": 20001, "message": wrong, "status": 400})
        elif fault is None:
            self._create(form, token)
        else:
            self._fail(fault, form, token)

    def _wrong(self, form: dict[str, str], token: str) -> str:
        expected = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
        if urlsplit(self.path).path != MESSAGES_PATH:
            return "unknown path"
        if self.headers.get("Authorization") != f"Basic {expected}":
            return "wrong credentials"
        if self.headers.get("Content-Type") != "application/x-www-form-urlencoded":
            return "not a form"
        missing = {"To", "Body", "From"} - form.keys()
        return f"missing {missing}" if missing or not token else ""

    def _create(self, form: dict[str, str], token: str) -> None:
        if form["To"] == INVALID_NUMBER:
            message = f"Invalid 'To' Phone Number: {form['To']}"
            self._answer(400, {"code": 21211, "message": message, "status": 400})
            return
        taken = self.twilio.take(form, token)
        self._answer(201, {"sid": taken.sid, "status": "queued", "to": form["To"]})

    def _fail(self, fault: Fault, form: dict[str, str], token: str) -> None:
        if fault in ("lost", "cut"):
            self.twilio.take(form, token)
        if fault in ("lost", "timeout"):
            self.twilio.released.wait(LONG_S)
        if fault in ("lost", "timeout", "cut"):
            self.close_connection = True
            return
        codes = {"429": 20429, "401": 20003}
        body = {"code": codes.get(fault, 20500), "message": "not now", "status": int(fault)}
        extra = {"Retry-After": str(self.twilio.retry_after_s)} if fault == "429" else {}
        self._answer(int(fault), body, **extra)

    def _answer(self, status: int, body: dict[str, Any], **headers: str) -> None:
        content = json.dumps(body).encode()
        with suppress(OSError):  # the client may have disconnected
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *_arguments: Any) -> None:  # noqa: A002 - the base's name
        """Log nothing."""


@contextmanager
def twilio_server() -> Iterator[FakeTwilio]:
    """Run the server while the block lasts."""
    twilio = FakeTwilio()
    handler = type("Handler", (_Handler,), {"twilio": twilio})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    twilio.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield twilio
    finally:
        twilio.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
