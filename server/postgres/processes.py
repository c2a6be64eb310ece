"""PostgreSQL's processes as the system shows them: whether they live and whom they serve."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from runtime.process import ask_kernel_to_signal

STOP_WAIT_MAX_S = 30.0
ABORT_WAIT_MAX_S = 5.0
POLL_INTERVAL_S = 0.01


class EmbeddedPostgresError(Exception):
    """The server cannot be made, started or stopped; the message is one sentence with a remedy."""


def follow_starter() -> None:
    """In the child: end when the process that started it does."""
    ask_kernel_to_signal(signal.SIGINT)  # a fast shutdown, in PostgreSQL's terms


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; none where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number, of whoever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def serves(pid: int, data: Path) -> bool:
    """Whether a process is a PostgreSQL of this data folder: each of them stands in it."""
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
    """Backends notice the death of their postmaster and end; a new server has to wait for that."""
    deadline = time.monotonic() + STOP_WAIT_MAX_S
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    for pid in [pid for pid in pids if serves(pid, data)]:
        while serves(pid, data):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Process {pid} of an earlier PostgreSQL still works on {data}: end it (kill"
                    f" {pid}), then start again."
                )
            time.sleep(POLL_INTERVAL_S)


def stop_leftover(pid: int, data: Path) -> None:
    """Stop a server that is no child of ours. Its number may stay taken by a zombie, for there are
    containers where nobody collects orphans: what counts is whether it still serves the data.
    """
    for signal_number, wait_s in (
        (signal.SIGINT, STOP_WAIT_MAX_S),
        (signal.SIGQUIT, ABORT_WAIT_MAX_S),
    ):
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not serves(pid, data):
                return
            time.sleep(POLL_INTERVAL_S)
    raise EmbeddedPostgresError(
        f"An earlier PostgreSQL (process {pid}) does not stop: end it, then start again."
    )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; if that takes too long an immediate one: the next start recovers from it."""
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
