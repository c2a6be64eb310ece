"""Wait for a condition."""

from __future__ import annotations

import operator
from collections.abc import Callable

from tenacity import (
    Retrying,
    retry_if_result,
    stop_after_delay,
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
