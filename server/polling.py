"""Waiting and retrying with pauses, by tenacity."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_fixed,
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


def retry_until_stopped(
    work: Callable[[], object],
    stopped: threading.Event,
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

    retrying = Retrying(
        retry=retry_if_exception_type(errors),
        stop=stop_when_event_set(stopped),
        wait=wait_fixed(delay_s),
        sleep=sleep_using_event(stopped),
        after=report,
        retry_error_callback=lambda _: None,
    )
    retrying(work)
