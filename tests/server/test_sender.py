"""The sender: killed at every step of a send, several at once, stopped and started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from commands.delivery.breakers import look
from commands.delivery.sending import BREAKER
from commands.process import Process, Reaction
from commands.processes import PROCESSES
from domain.shared.breaker import State
from eventlog.reading import RecordedEvent
from runtime.gateways import GatewaySettingsError, gateway_of
from runtime.gateways.log_only import LoggingGateway
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from server.processes.sender import Sender
from tests.conftest import Urls
from tests.support.dying_sender import PLACES
from tests.support.processes import END_WAIT_S, WAIT_S, until
from tests.support.sms_house import CountingGateway, SmsHouse
from tests.support.twilio_server import MESSAGES_PATH, FakeTwilio

IMPATIENT: dict[str, Any] = {
    "sms_timeout_s": 1,
    "sms_backoff_first_s": 0.1,
    "sms_backoff_max_s": 0.2,
    "poll_interval_ms": 50,
}


@contextmanager
def process(
    urls: Urls, twilio: FakeTwilio, output: Path, when: str = "never"
) -> Iterator[subprocess.Popen[bytes]]:
    """A sender process that dies at this step, or never; ended with the block."""
    given = {f"ANNALS_{name.upper()}": str(value) for name, value in IMPATIENT.items()}
    environment = {
        **os.environ,
        **twilio.environment(),
        **given,
        "ANNALS_SENDER_URL": urls.sender,
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.dying_sender", when],
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(END_WAIT_S)


@contextmanager
def sender(urls: Urls, twilio: FakeTwilio, **more: Any) -> Iterator[Sender]:
    """A sender in this process, at work as long as the block lasts."""
    settings = Settings(sender_url=urls.sender, **twilio.settings(), **{**IMPATIENT, **more})
    made = Sender(settings, gateway_of(settings))
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join(END_WAIT_S)


def is_sent(house: SmsHouse, sms: UUID) -> bool:
    return bool(house.facts(sms)["status"] == "sent")


@pytest.mark.parametrize("when", PLACES)
def test_kill_9_at_a_step_of_a_send_loses_and_doubles_nothing(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path, when: str
) -> None:
    sms = house.ask()
    with process(urls, twilio, tmp_path / "sender.log", when) as dying:
        assert dying.wait(WAIT_S) == -signal.SIGKILL
    assert is_sent(house, sms) == (when == "end")
    taken = {"react": 0, "claim": 0, "call": 1, "record": 1, "end": 1}[when]
    assert len(twilio.messages) == taken
    with sender(urls, twilio):
        until(lambda: is_sent(house, sms))
        other = house.ask()
        until(lambda: is_sent(house, other))
        until(lambda: {row[1] for row in house.commands()} == {"done"})
    assert twilio.refusals == []
    assert sorted(twilio.messages) == sorted([str(sms), str(other)])
    assert len(twilio.calls) <= 3, "one more at the most, under the same key"
    events = house.database.execute(
        "SELECT topic, count(*) FROM events WHERE stream_id = %s GROUP BY topic", (sms,)
    ).fetchall()
    assert dict(events) == {"sms.created": 1, "sms.updated": 1, "sms.status_changed": 1}
    assert len(house.commands()) == 2


def test_several_senders_and_kills_send_each_message_once(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    output = tmp_path / "sender.log"
    with process(urls, twilio, output) as first, process(urls, twilio, output, "call") as second:
        asked = [house.ask() for _ in range(20)]
        until(lambda: len(twilio.messages) > 3)
        first.kill()
        with sender(urls, twilio):
            until(lambda: all(is_sent(house, sms) for sms in asked))
        second.kill()
    assert sorted(twilio.messages) == sorted(map(str, asked))
    assert twilio.refusals == []


def test_a_call_of_a_sender_that_died_while_making_it_is_none(twilio: FakeTwilio) -> None:
    address = urlsplit(twilio.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {MESSAGES_PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 40\r\n\r\n"
        connection.sendall(head.encode() + b"To=%2B1500")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert twilio.calls == []
    assert twilio.refusals == []


def test_senders_share_a_breaker_that_outlives_them(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    twilio.down = "503"
    asked = [house.ask() for _ in range(9)]
    with process(urls, twilio, tmp_path / "sender.log") as first, sender(urls, twilio):
        until(lambda: look(house.database, BREAKER)[0].state is State.OPEN)
        first.kill()
    called = len(twilio.calls)
    twilio.down = None
    with sender(urls, twilio), sender(urls, twilio):
        one_more = house.ask()
        commands = "SELECT count(*) FROM process_commands"
        until(lambda: house.database.execute(commands).fetchone() == (10,))
        assert len(twilio.calls) == called, "it is open still"
        house.database.execute("UPDATE circuit_breakers SET until = now()")
        until(lambda: all(is_sent(house, sms) for sms in (*asked, one_more)))
    assert look(house.database, BREAKER)[0].state is State.CLOSED
    assert all(message.calls == 1 for message in twilio.messages.values())


def test_a_database_that_ends_connections_is_waited_for(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio
) -> None:
    with sender(urls, twilio):
        first = house.ask()
        until(lambda: is_sent(house, first))
        house.database.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = 'annals_sender' AND datname = current_database()
                  AND application_name IN ('annals-send', 'annals-hinter')"""
        )
        second = house.ask()
        until(lambda: is_sent(house, second))


def test_a_process_that_is_stuck_holds_up_nobody_else(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, caplog: pytest.LogCaptureFixture
) -> None:
    def stuck(memory: None, event: RecordedEvent) -> Reaction[None]:
        raise ZeroDivisionError

    broken = Process("broken", frozenset({"lead.created"}), stuck, type(None))
    settings = Settings(sender_url=urls.sender, **twilio.settings(), **IMPATIENT)
    made = Sender(settings, gateway_of(settings), [broken, *PROCESSES.values()])
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        position = "SELECT position FROM process_inboxes WHERE process = 'broken'"
        until(lambda: house.database.execute(position).fetchone() is not None)
        begun = house.database.execute(position).fetchone()
        sms = house.ask()
        until(lambda: is_sent(house, sms))
        assert house.database.execute(position).fetchone() == begun
    finally:
        made.stop()
        thread.join(END_WAIT_S)
    assert "process broken is stuck at an event" in caplog.text


def test_a_sender_stops_when_it_is_told_to(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    with process(urls, twilio, tmp_path / "sender.log") as running:
        sms = house.ask()
        until(lambda: is_sent(house, sms))
        running.send_signal(signal.SIGTERM)
        assert running.wait(END_WAIT_S) == 0


def test_a_sender_needs_its_url_and_a_whole_account() -> None:
    with pytest.raises(LookupError, match="ANNALS_SENDER_URL"):
        Sender(Settings(), CountingGateway())
    with pytest.raises(GatewaySettingsError, match="ANNALS_SMS_TWILIO_ACCOUNT"):
        gateway_of(Settings(sms_gateway="twilio"))
    assert isinstance(gateway_of(Settings()), LoggingGateway)
