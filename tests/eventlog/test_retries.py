"""Retries: the number of calls, and the errors that end them."""

from __future__ import annotations

from threading import Event

import psycopg
import pytest

from eventlog.retries import retry_locks, retry_until_stopped

LOST = psycopg.OperationalError("connection lost")


class Work:
    """Raises these errors, one at each call, and returns after them."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def run(work: Work, stopped: Event) -> list[BaseException]:
    reported: list[BaseException] = []
    retry_until_stopped(
        work, stopped, errors=(psycopg.OperationalError,), delay_s=0.001, on_error=reported.append
    )
    return reported


def test_work_is_called_again_after_each_error_until_it_returns() -> None:
    work = Work(LOST, LOST)
    assert run(work, Event()) == [LOST, LOST]
    assert work.calls == 3


def test_other_errors_end_the_retries() -> None:
    work = Work(LOST, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run(work, Event())
    assert work.calls == 2


def test_work_is_not_called_once_stopped() -> None:
    stopped = Event()
    stopped.set()
    work = Work(LOST)
    assert run(work, stopped) == []
    assert work.calls == 0


def test_error_after_the_stop_is_reported_and_ends_the_retries() -> None:
    stopped = Event()

    def fail() -> None:
        stopped.set()
        raise LOST

    reported: list[BaseException] = []
    retry_until_stopped(
        fail, stopped, errors=(psycopg.OperationalError,), delay_s=60.0, on_error=reported.append
    )
    assert reported == [LOST]


@pytest.mark.parametrize(
    "conflict", [psycopg.errors.LockNotAvailable(), psycopg.errors.DeadlockDetected()]
)
def test_lock_conflicts_are_retried_up_to_the_limit(conflict: psycopg.Error) -> None:
    work = Work(conflict, conflict)
    retry_locks(3, 0.001)(work)
    assert work.calls == 3
    work = Work(*[conflict] * 3)
    with pytest.raises(type(conflict)):
        retry_locks(3, 0.001)(work)
    assert work.calls == 3


def test_errors_other_than_lock_conflicts_are_not_retried() -> None:
    work = Work(LOST)
    with pytest.raises(psycopg.OperationalError):
        retry_locks(3, 0.001)(work)
    assert work.calls == 1
