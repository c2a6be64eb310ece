"""Process management: stop signals, exit with the supervisor, garbage collection."""

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
    """Have Linux send this process a signal when the thread that forked it ends.

    Does nothing on other systems. The setting survives exec but not a change of user, so call this
    after changing the user.
    """
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def end_with_supervisor() -> None:
    """Have a child of the supervisor stop cleanly once the supervisor is gone.

    Linux sends a signal immediately; a watcher thread covers other systems and the time between
    fork and this call. Does nothing in a process that was started without a supervisor.
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
    # The clean exit is stuck, and no supervisor is left to end this process.
    os._exit(1)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM or SIGINT for the duration of the block. Main thread only."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


GC_THRESHOLDS = (20_000, 20, 50)
"""Garbage collection thresholds by generation, for long-running processes. With a thousand streams
open, a full collection pauses them longer than the delivery of a change may take; the rows of a
projector and of an import form no cycles."""


def tune_gc() -> None:
    """Collect garbage rarely from now on, and exclude everything loaded so far."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
