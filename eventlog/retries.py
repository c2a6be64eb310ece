"""Retries, of transactions that wait for locks and of work that lost its connection; polling."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from threading import Event

import psycopg
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_fixed,
)

from eventlog.connections import WRITES_REFUSED

REPEATED_AFTER_S = 60.0
LOCK_CONFLICTS = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def retry_locks(attempts_max: int, pause_s: float) -> Retrying:
    """Retry after each of `LOCK_CONFLICTS`; the last attempt raises its error.

    During a pause, the transactions that queued behind the last attempt proceed.
    """
    return Retrying(
        retry=retry_if_exception_type(LOCK_CONFLICTS),
        stop=stop_after_attempt(attempts_max),
        wait=wait_fixed(pause_s),
        reraise=True,
    )


def poll_until(condition: Callable[[], bool], timeout_s: float, interval_s: float) -> bool:
    """Check the condition every `interval_s` seconds. Return whether it held within `timeout_s`."""
    retrying = Retrying(
        retry=retry_if_result(operator.not_),
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(interval_s),
        retry_error_callback=lambda _: False,
    )
    return bool(retrying(condition))


def seldom(report: Callable[[BaseException], object]) -> Callable[[BaseException], None]:
    """A function that reports an error, but the same one again only after REPEATED_AFTER_S."""
    last, until_s = "", 0.0

    def report_unless_repeated(error: BaseException) -> None:
        nonlocal last, until_s
        is_refused = isinstance(error, WRITES_REFUSED)  # whatever was to be written
        described = type(error).__name__ if is_refused else repr(error)
        now_s = time.monotonic()
        if described != last or now_s >= until_s:
            last, until_s = described, now_s + REPEATED_AFTER_S
            report(error)

    return report_unless_repeated


def retry_until_stopped(
    work: Callable[[], object],
    stopped: Event,
    *,
    errors: tuple[type[BaseException], ...],
    delay_s: float,
    on_error: Callable[[BaseException], object],
) -> None:
    """Call `work` until it returns or `stopped` is set, with a pause after each of these errors."""

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            on_error(error)

    for attempt in Retrying(
        retry=retry_if_exception_type(errors),
        stop=stop_when_event_set(stopped),
        wait=wait_fixed(delay_s),
        sleep=sleep_using_event(stopped),
        after=report,
        retry_error_callback=lambda _: None,
    ):
        with attempt:
            if not stopped.is_set():
                work()
