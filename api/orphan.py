"""A child process that does not outlive the supervisor, however the supervisor ends."""

import ctypes
import os
import signal
import sys
import threading
import time

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
