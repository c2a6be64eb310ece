"""What every process needs: signals that stop it, an end with its supervisor, rare collections."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SUPERVISOR_PID_VARIABLE = "ANNALS_SUPERVISOR_PID"
PARENT_CHECK_INTERVAL_S = 0.5
ORPHAN_GRACE_S = 10.0

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ask_kernel_to_signal(signal_number: int) -> None:
    """Have Linux send this process a signal when the thread that forked it ends; elsewhere nothing.

    The request survives exec but not a change of user, so it belongs after that change.
    """
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def end_with_supervisor() -> None:
    """Called by a child of the supervisor at its start: end, cleanly, once the supervisor is gone.

    Linux says so at once; a watcher thread covers the other systems and the moment between fork
    and this call. Does nothing in a process that was started by hand.
    """
    supervisor_pid = int(os.environ.get(SUPERVISOR_PID_VARIABLE, "0"))
    if supervisor_pid == 0:
        return
    ask_kernel_to_signal(signal.SIGTERM)
    watcher = threading.Thread(
        target=_end_when_orphaned, args=(supervisor_pid,), name="orphan-watcher", daemon=True
    )
    watcher.start()


def _end_when_orphaned(supervisor_pid: int) -> None:
    while os.getppid() == supervisor_pid:
        time.sleep(PARENT_CHECK_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    # The clean way out is stuck, and nobody is left who could press Ctrl-C.
    os._exit(1)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Either signal calls `stop`, for as long as the block lasts. In the main thread only."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


COLLECT_AFTER = (20_000, 20, 50)
"""By generation. A look at all there is, with a thousand streams open, stops them all for longer
than a change may take to its reader; a projector's rows form no cycles."""


def tune_gc() -> None:
    """From here on; what was loaded until now stays and is not looked at again."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
