"""PostgreSQL's server processes: which are running, which data they serve, and stopping them."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from eventlog.retries import poll_until
from runtime.process import ask_kernel_to_signal

STOP_WAIT_MAX_S = 30.0
ABORT_WAIT_MAX_S = 5.0
POLL_INTERVAL_S = 0.01


class EmbeddedPostgresError(Exception):
    """The server cannot be created, started or stopped; the message has one remedy."""


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends; called in the forked child."""
    ask_kernel_to_signal(signal.SIGINT)  # PostgreSQL's signal for a fast shutdown


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, or none if the file is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def serves(pid: int, data: Path) -> bool:
    """Whether the process has the data folder as its working directory, as PostgreSQL's do."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cwd").samefile(data)
        except OSError:
            return False
    listing = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(data) in listing.stdout


def wait_for_backends(data: Path) -> None:
    """Wait until the backends of a server without a postmaster have ended.

    Raises EmbeddedPostgresError after STOP_WAIT_MAX_S seconds.
    """
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    backends = [pid for pid in pids if serves(pid, data)]

    def have_ended() -> bool:
        backends[:] = [pid for pid in backends if serves(pid, data)]
        return not backends

    if not poll_until(have_ended, STOP_WAIT_MAX_S, POLL_INTERVAL_S):
        pid = backends[0]
        raise EmbeddedPostgresError(
            f"Process {pid} of an earlier PostgreSQL still works on {data}: end it (kill {pid}),"
            " then start again."
        )


def stop_leftover(pid: int, data: Path) -> None:
    """Stop a server that is not a child of this process.

    In a container without an init process its id may stay taken by a zombie, so this waits until
    the process no longer serves the data. Raises EmbeddedPostgresError if it does not stop.
    """
    for signal_number, wait_s in (
        (signal.SIGINT, STOP_WAIT_MAX_S),
        (signal.SIGQUIT, ABORT_WAIT_MAX_S),
    ):
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        if poll_until(lambda: not serves(pid, data), wait_s, POLL_INTERVAL_S):
            return
    raise EmbeddedPostgresError(
        f"An earlier PostgreSQL (process {pid}) does not stop: end it, then start again."
    )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Shut the server down: fast, then immediately (the next start recovers), then by SIGKILL."""
    for signal_number, wait_s in (
        (signal.SIGINT, STOP_WAIT_MAX_S),
        (signal.SIGQUIT, ABORT_WAIT_MAX_S),
        (signal.SIGKILL, ABORT_WAIT_MAX_S),
    ):
        process.send_signal(signal_number)
        try:
            process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            continue
        return
