"""Senders of text messages: in a thread, or as a process that may kill itself."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.gateways import gateway_of
from runtime.settings import Settings
from server.processes.sender import Sender
from tests.support.databases import Urls
from tests.support.processes import STOP_TIMEOUT_S, start_module, stop_process
from tests.support.twilio_server import FakeTwilio

SHORT_WAITS: dict[str, Any] = {
    "sms_timeout_s": 1,
    "sms_backoff_first_s": 0.1,
    "sms_backoff_max_s": 0.2,
    "poll_interval_ms": 50,
}


@contextmanager
def sender_process(
    urls: Urls, twilio: FakeTwilio, output: Path, crash_at: str = "never"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a sender process while the block lasts; see `crashing_sender` for `crash_at`."""
    waits = {f"ANNALS_{name.upper()}": str(value) for name, value in SHORT_WAITS.items()}
    process = start_module(
        output,
        "tests.support.crashing_sender",
        crash_at,
        ANNALS_SENDER_URL=urls.sender,
        **twilio.environment(),
        **waits,
    )
    try:
        yield process
    finally:
        stop_process(process)


@contextmanager
def running_sender(urls: Urls, twilio: FakeTwilio, **more: Any) -> Iterator[Sender]:
    """Run a sender in a thread while the block lasts; `more` are settings."""
    settings = Settings(sender_url=urls.sender, **twilio.settings(), **{**SHORT_WAITS, **more})
    sender = Sender(settings, gateway_of(settings))
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        yield sender
    finally:
        sender.stop()
        thread.join(STOP_TIMEOUT_S)
