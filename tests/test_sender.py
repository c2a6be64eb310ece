"""The sender as a process: killed at every step of a send, several at once, stopped and started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.orphan import SUPERVISOR_PID_VARIABLE
from api.sender import Sender
from api.settings import REPOSITORY, Settings
from commands.breakers import look
from commands.sending import BREAKER
from domain.breaker import State
from tests.conftest import Urls
from tests.dying_sender import PLACES
from tests.processes import END_WAIT_S, WAIT_S, until
from tests.sms_house import CountingGateway, SmsHouse, sms_house
from tests.twilio_server import FakeTwilio, twilio_server

IMPATIENT = {
    "ANNALS_SMS_TIMEOUT_S": "1",
    "ANNALS_SMS_BACKOFF_FIRST_S": "0.1",
    "ANNALS_SMS_BACKOFF_MAX_S": "0.2",
    "ANNALS_POLL_INTERVAL_MS": "50",
}


@pytest.fixture
def house(urls: Urls) -> Iterator[SmsHouse]:
    with sms_house(urls) as made:
        yield made


@pytest.fixture
def twilio() -> Iterator[FakeTwilio]:
    with twilio_server() as made:
        yield made


@contextmanager
def sender(
    urls: Urls, twilio: FakeTwilio, output: Path, when: str = "never"
) -> Iterator[subprocess.Popen[bytes]]:
    """A sender process that dies at this step, or never; ended with the block."""
    environment = {
        **os.environ,
        **twilio.environment(),
        **IMPATIENT,
        "ANNALS_SENDER_URL": urls.sender,
        SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(REPOSITORY),
    }
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.dying_sender", when],
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


def is_sent(house: SmsHouse, sms: object) -> bool:
    return house.facts(sms)["status"] == "sent"  # type: ignore[arg-type]


@pytest.mark.parametrize("when", PLACES)
def test_kill_9_at_a_step_of_a_send_loses_and_doubles_nothing(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path, when: str
) -> None:
    sms = house.ask()
    with sender(urls, twilio, tmp_path / "sender.log", when) as process:
        assert process.wait(WAIT_S) == -signal.SIGKILL
    assert is_sent(house, sms) == (when == "end")
    taken = {"react": 0, "claim": 0, "call": 1, "record": 1, "end": 1}[when]
    assert len(twilio.messages) == taken
    with sender(urls, twilio, tmp_path / "sender.log") as process:
        until(lambda: is_sent(house, sms))
        other = house.ask()
        until(lambda: is_sent(house, other))
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_WAIT_S) == 0
    assert twilio.refusals == []
    assert sorted(twilio.messages) == sorted([str(sms), str(other)])
    assert len(twilio.calls) <= 3, "one more at the most, under the same key"
    events = house.database.execute(
        "SELECT topic, count(*) FROM events WHERE stream_id = %s GROUP BY topic", (sms,)
    ).fetchall()
    assert dict(events) == {"sms.created": 1, "sms.updated": 1, "sms.status_changed": 1}
    assert [row[:2] for row in house.commands()] == [("sendSms", "done")] * 2


def test_several_senders_and_a_kill_send_each_message_once(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    output = tmp_path / "sender.log"
    with (
        sender(urls, twilio, output) as first,
        sender(urls, twilio, output),
        sender(urls, twilio, output, "call"),
    ):
        asked = [house.ask() for _ in range(20)]
        until(lambda: len(twilio.messages) > 3)
        first.kill()
        until(lambda: all(is_sent(house, sms) for sms in asked))
    assert sorted(twilio.messages) == sorted(map(str, asked))
    assert twilio.refusals == []


def test_senders_share_a_breaker_that_outlives_them(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    output = tmp_path / "sender.log"
    twilio.down = "503"
    asked = [house.ask() for _ in range(9)]
    with sender(urls, twilio, output) as first, sender(urls, twilio, output):
        until(lambda: look(house.database, BREAKER)[0].state is State.OPEN)
        first.kill()
    called = len(twilio.calls)
    twilio.down = None
    with sender(urls, twilio, output), sender(urls, twilio, output):
        one_more = house.ask()
        commands = "SELECT count(*) FROM process_commands"
        until(lambda: house.database.execute(commands).fetchone() == (10,))
        assert len(twilio.calls) == called, "it is open still"
        house.database.execute("UPDATE circuit_breakers SET until = now()")
        until(lambda: all(is_sent(house, sms) for sms in (*asked, one_more)))
    assert look(house.database, BREAKER)[0].state is State.CLOSED
    assert all(message.calls == 1 for message in twilio.messages.values())


def test_a_database_that_ends_connections_is_waited_for(
    house: SmsHouse, urls: Urls, twilio: FakeTwilio, tmp_path: Path
) -> None:
    with sender(urls, twilio, tmp_path / "sender.log") as process:
        first = house.ask()
        until(lambda: is_sent(house, first))
        house.database.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = 'annals_sender' AND datname = current_database()
                  AND application_name IN ('annals-send', 'annals-hinter')"""
        )
        second = house.ask()
        until(lambda: is_sent(house, second))
        assert process.poll() is None


def test_a_sender_needs_its_url() -> None:
    with pytest.raises(LookupError, match="ANNALS_SENDER_URL"):
        Sender(Settings(), CountingGateway())
