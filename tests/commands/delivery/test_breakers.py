"""The circuit breaker: its rules, and its state as senders share it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from commands.delivery.breakers import load_breaker, lock_breaker, save_breaker
from domain.shared.breaker import Breaker, Limits, State
from tests.support.databases import Urls

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
LIMITS = Limits()


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def open_breaker() -> Breaker:
    """Return a breaker that opened at START."""
    breaker = Breaker()
    for _ in range(LIMITS.failures):
        breaker = breaker.failed(breaker.epoch, START, LIMITS)
    return breaker


def admit_probe(breaker: Breaker, at: datetime) -> Breaker:
    """Return the breaker after it admitted a probe."""
    admitted = breaker.admit(at, LIMITS)
    assert admitted is not None
    return admitted


def test_five_failures_within_a_minute_open_the_breaker() -> None:
    breaker = Breaker()
    for second in (0, 15, 30, 45):
        breaker = breaker.failed(0, after(second), LIMITS)
        assert breaker.state is State.CLOSED
    assert breaker.failed(0, after(59), LIMITS).state is State.OPEN


def test_five_failures_in_more_than_a_minute_leave_the_breaker_closed() -> None:
    breaker = Breaker()
    for second in (0, 15, 30, 45, 60):
        breaker = breaker.failed(0, after(second), LIMITS)
    assert breaker.state is State.CLOSED
    assert len(breaker.failures) == 4


def test_open_breaker_admits_one_probe_after_thirty_seconds() -> None:
    breaker = open_breaker()
    assert breaker.admit(after(29.9), LIMITS) is None
    probe = admit_probe(breaker, after(30))
    assert probe.state is State.HALF_OPEN
    assert probe.admit(after(31), LIMITS) is None
    assert probe.succeeded(probe.epoch) == Breaker(epoch=probe.epoch + 1)


def test_failed_probes_double_the_wait_up_to_five_minutes() -> None:
    breaker, now, waits = open_breaker(), START, []
    for _ in range(6):
        waits.append(breaker.wait_s)
        now += timedelta(seconds=breaker.wait_s)
        probe = admit_probe(breaker, now)
        breaker = probe.failed(probe.epoch, now, LIMITS)
    assert waits == [30, 60, 120, 240, 300, 300]


def test_second_probe_is_admitted_after_the_first_one_expired() -> None:
    probe = admit_probe(open_breaker(), after(30))
    assert probe.admit(after(30 + LIMITS.probe_s - 1), LIMITS) is None
    second = admit_probe(probe, after(30 + LIMITS.probe_s))
    assert second.succeeded(probe.epoch) is second, "the expired probe has no effect"
    assert second.succeeded(second.epoch).state is State.CLOSED


def test_withdrawn_probe_lets_the_next_one_through() -> None:
    probe = admit_probe(open_breaker(), after(30))
    withdrawn = probe.withdrawn(probe.epoch, after(31))
    assert withdrawn.state is State.OPEN
    assert withdrawn.admit(after(31), LIMITS) is not None


class BreakerMachine(RuleBasedStateMachine):
    """Calls, successes, failures, withdrawals and waits in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = START
        self.calls: list[int] = []
        """Epochs of the calls in progress."""
        self.probe_until = START

    @rule(seconds=st.floats(0, 400))
    def advance_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def start_call(self) -> None:
        before = self.breaker
        admitted = before.admit(self.now, LIMITS)
        if before.state is State.CLOSED:
            assert admitted is before
        elif admitted is not None:
            assert self.now >= self.probe_until, "one probe at a time"
            assert admitted.state is State.HALF_OPEN
            assert admitted.until is not None
            self.probe_until = admitted.until
        if admitted is not None:
            self.breaker = admitted
            self.calls.append(admitted.epoch)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "failed", "withdrawn"]))
    def end_call(self, data: st.DataObject, outcome: str) -> None:
        epoch = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before = self.breaker
        after_ = {
            "answered": lambda: before.succeeded(epoch),
            "failed": lambda: before.failed(epoch, self.now, LIMITS),
            "withdrawn": lambda: before.withdrawn(epoch, self.now),
        }[outcome]()
        if epoch != before.epoch:
            assert after_ is before, "a call of an earlier epoch has no effect"
        if after_.state is not before.state:
            assert after_.epoch == before.epoch + 1
            assert after_.until is not None or after_.state is State.CLOSED
            self.probe_until = after_.until or self.now
        self.breaker = after_

    @invariant()
    def state_is_bounded_and_consistent(self) -> None:
        breaker = self.breaker
        assert len(breaker.failures) <= LIMITS.failures
        assert (breaker.until is None) == (breaker.state is State.CLOSED)
        assert (breaker.wait_s == 0) == (breaker.state is State.CLOSED)
        assert breaker.wait_s in (0, 30, 60, 120, 240, 300)
        if breaker.state is State.CLOSED:
            assert len(breaker.failures) < LIMITS.failures


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_one_of_many_concurrent_senders_makes_the_probe(urls: Urls) -> None:
    due = datetime.now(UTC) - timedelta(seconds=1)
    with psycopg.connect(urls.sender, autocommit=True) as connection:
        before, _ = load_breaker(connection, "sms")
        open_ = Breaker(State.OPEN, (due,) * 5, 30.0, due, 7)
        save_breaker(connection, "sms", before, open_)
        assert load_breaker(connection, "sms")[0] == open_

    def is_admitted(_: int) -> bool:
        with psycopg.connect(urls.sender) as connection:
            breaker, now = lock_breaker(connection, "sms")
            admitted = breaker.admit(now, LIMITS)
            if admitted is None:
                return False
            save_breaker(connection, "sms", breaker, admitted)
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(is_admitted, range(24))) == 1
    with psycopg.connect(urls.app, autocommit=True) as connection:
        assert load_breaker(connection, "sms")[0].state is State.HALF_OPEN, (
            "the state is shared by all connections"
        )
