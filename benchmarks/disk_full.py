"""What a full disk does: `annals demo` on a small disk, which is filled and emptied again.

    python -m benchmarks.disk_full FOLDER

needs a folder on a disk of 1.5 to 4 GB that may be filled, such as one made by
`mount -t tmpfs -o size=1700m tmpfs FOLDER`. It prints how reads and writes were answered before,
while the disk was short of room, while it had none, after PostgreSQL was killed then, and after.
The output of the processes goes to disk_full.log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from runtime.settings import REPOSITORY
from tests.support.api_server import free_port

START_MAX_S = 300.0
PHASE_S = 8.0
PAUSE_S = 0.1
CHUNK = bytes(1024**2)
SHORT_BYTES = 200 * 1024**2
"""Free bytes that are left while the disk is short: less than ANNALS_DISK_FREE_MIN_BYTES."""
ACCOUNT = {"type": "customer", "company": "Disk"}


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Wait for the condition; return the seconds that it took."""
    started_s = time.monotonic()
    while not condition():
        if time.monotonic() - started_s > START_MAX_S:
            raise SystemExit(f"{what} took more than {START_MAX_S:.0f} s")
        time.sleep(PAUSE_S)
    return time.monotonic() - started_s


def fill(path: Path, leave_bytes: int) -> None:
    """Write to the file until this number of bytes is free, or the disk is full."""
    with path.open("ab", buffering=0) as file:
        try:
            while psutil.disk_usage(str(path.parent)).free > leave_bytes:
                file.write(CHUNK)
            while not leave_bytes:
                file.write(CHUNK[:4_096])
        except OSError as error:
            print(f"  the disk is full: {error.strerror}")


def probe(client: httpx.Client, phase: str) -> None:
    """Read and write for PHASE_S; print the statuses."""
    reads: Counter[str] = Counter()
    writes: Counter[str] = Counter()
    until_s = time.monotonic() + PHASE_S
    while time.monotonic() < until_s:
        reads[answer(client, "GET")] += 1
        writes[answer(client, "POST")] += 1
        time.sleep(PAUSE_S)
    print(f"{phase:<32} reads {dict(reads)}  writes {dict(writes)}")


def answer(client: httpx.Client, method: str) -> str:
    """Send a read or a write; return its status, and its code if it failed."""
    try:
        response = client.request(
            method, "/api/accounts?pageSize=3" if method == "GET" else "/api/accounts",
            json=None if method == "GET" else ACCOUNT,
        )  # fmt: skip
    except httpx.HTTPError as error:
        return type(error).__name__
    return f"{response.status_code} {response.json().get('code', '')}".strip()


def main() -> None:
    """Fill and empty the disk of the folder named on the command line."""
    folder = Path(sys.argv[1]).absolute()
    home, filler, port = folder / "home", folder / "filler", free_port()
    environment = os.environ | {"ANNALS_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    output = (Path.cwd() / "disk_full.log").open("wb")
    command = [sys.executable, "-P", "-m", "server.cli", "demo", "--port", str(port)]
    annals = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_for((home / "connection.json").exists, "the start")
        token = json.loads((home / "connection.json").read_text("utf-8"))["token"]
        headers = {"Authorization": f"Bearer {token}"}
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10)
        probe(client, "room")
        fill(filler, SHORT_BYTES)
        probe(client, "short of room")
        fill(filler, 0)
        probe(client, "full")
        for each in psutil.Process(annals.pid).children():
            if each.name().startswith("postgres"):
                each.send_signal(signal.SIGKILL)
        took_s = wait_for(lambda: answer(client, "GET") == "200", "reads after a crash")
        print(f"PostgreSQL killed: reads again after {took_s:.1f} s")
        probe(client, "full, after the crash")
        filler.unlink()
        took_s = wait_for(lambda: answer(client, "POST") == "201", "writes")
        print(f"room again: writes after {took_s:.1f} s")
        probe(client, "room")
    finally:
        annals.terminate()
        annals.wait()


if __name__ == "__main__":
    main()
