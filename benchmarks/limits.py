"""What the limits on connections and requests cost, and what an attack without a key meets.

    python -m benchmarks.limits [--seconds 1] [--rounds 9] [--half-sent 7000] [--megabytes 101]

The same application is served by uvicorn's own protocol and by ours (ADR 20), each in a process of
its own. Normal traffic: requests per second over kept connections, and the process's CPU time per
request, in alternating rounds. Attacks, each on a new process with as many open files as
`annals serve` has: by how much its memory grew at most, and the time in which another client at
another address gets /livez meanwhile. At last the cost of counting one request in memory (ADR 24),
compared with an upsert into an unlogged table.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import psutil
import psycopg
from starlette.requests import HTTPConnection

from api.app import create_app
from api.http.limits.keys import KeyQuotas
from api.http.limits.rates import RateCounter
from benchmarks.export import fill
from benchmarks.generated import database
from domain.api_key import Role
from eventlog.retries import poll_until
from runtime.settings import Settings
from server.postgres.embedded import DatabaseUrls
from server.processes.serving import OTHER_FILES, make_server, open_socket, raise_open_files_limit
from tests.support.api_server import free_port, is_live

PROTOCOLS = ("stock", "ours")
STOCK = {"http": "httptools", "timeout_keep_alive": 30}
ROWS = 100
CONNECTIONS = 8
START_WAIT_S = 60.0
POLL_S = 0.05
PROBE_INTERVAL_S = 0.02
PROBE_TIMEOUT_S = 5.0
PROBE_ADDRESS = "127.0.0.2"
"""Another address of this machine, so that the limit by address does not meet the prober."""
SETTLE_S = 1.0
AFTER_S = 14.0
"""Time after which half-sent requests are counted: more than ANNALS_HTTP_HEAD_TIMEOUT_S."""
OPEN_FILES = 30_000
HEAD = b"GET /livez HTTP/1.1\r\nHost: annals\r\n"
MB = 1_000_000
PEAK_KIB = re.compile(r"VmHWM:\s+(\d+) kB")
COUNTS = 20_000
UPSERTS = 2_000
UPSERT = """
INSERT INTO counted VALUES (%s, 1) ON CONFLICT (key) DO UPDATE SET requests = counted.requests + 1
"""


@dataclass
class Served:
    """A server process."""

    url: str
    port: int
    process: psutil.Process

    @property
    def peak_mb(self) -> float:
        """The greatest memory that it has ever had, in MB (Linux)."""
        (found,) = PEAK_KIB.findall(Path(f"/proc/{self.process.pid}/status").read_text("ascii"))
        return int(found) * 1_024 / MB

    @property
    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def serve(protocol: str, port: int, urls: list[str]) -> None:
    """Serve the application in this process until it is terminated."""
    owner, app_url, projector = urls
    settings = Settings(owner_url=owner, app_url=app_url, projector_url=projector, port=port)
    files = settings.http_connections_max + OTHER_FILES
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    others = STOCK if protocol == "stock" else {}
    server = make_server(create_app(settings), settings, log_level="error", **others)
    server.run(sockets=[open_socket(server.config, settings.unread_timeout_s)])


@contextmanager
def serving(protocol: str, urls: DatabaseUrls) -> Iterator[Served]:
    """Serve the application in another process while the block lasts."""
    port = free_port()
    serve_arguments = ["--serve", protocol, str(port), urls.owner, urls.app, urls.projector]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.limits", *serve_arguments])
    url = f"http://127.0.0.1:{port}"
    try:
        if not poll_until(lambda: is_live(url), START_WAIT_S, POLL_S):
            raise TimeoutError("the API does not start")
        yield Served(url, port, psutil.Process(process.pid))
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


@dataclass(eq=False)
class Prober(threading.Thread):
    """Another client, which requests /livez over new connections."""

    served: Served
    seconds: list[float] = field(default_factory=list)
    failures: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._done = threading.Event()

    def run(self) -> None:
        """Probe until stopped."""
        while not self._done.wait(PROBE_INTERVAL_S):
            started_s = time.perf_counter()
            try:
                address = ("127.0.0.1", self.served.port)
                with socket.create_connection(
                    address, PROBE_TIMEOUT_S, source_address=(PROBE_ADDRESS, 0)
                ) as connection:
                    connection.sendall(HEAD + b"Connection: close\r\n\r\n")
                    self.failures += not connection.recv(4_096).startswith(b"HTTP/1.1 200")
            except OSError:
                self.failures += 1
            self.seconds.append(time.perf_counter() - started_s)

    def stop(self) -> str:
        """Stop; return latencies and failures as one line."""
        self._done.set()
        self.join()
        median_ms, most_ms = statistics.median(self.seconds) * 1_000, max(self.seconds) * 1_000
        return (
            f"/livez p50 {median_ms:.1f} ms, max {most_ms:,.0f} ms,"
            f" {self.failures} of {len(self.seconds)} failed"
        )


def request_for(served: Served, request: bytes, seconds: float) -> tuple[float, float]:
    """Send the request again and again; return requests per second and CPU microseconds each."""
    counts = [0] * CONNECTIONS
    until_s = time.perf_counter() + seconds

    def send(number: int) -> None:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            while time.perf_counter() < until_s:
                connection.sendall(request)
                head, _, body = connection.recv(262_144).partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < length:
                    body += connection.recv(262_144)
                counts[number] += 1

    started_cpu_s, started_s = served.cpu_s, time.perf_counter()
    threads = [threading.Thread(target=send, args=(each,)) for each in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(counts)
    rate = total / (time.perf_counter() - started_s)
    return rate, (served.cpu_s - started_cpu_s) / total * 1_000_000


def measure_traffic(urls: DatabaseUrls, token: str, seconds: float, rounds: int) -> None:
    """Print the rate and the CPU time of normal requests by both protocols."""
    requests = {
        "/livez": HEAD + b"\r\n",
        "/api/accounts": b"GET /api/accounts HTTP/1.1\r\nHost: annals\r\nAuthorization: Bearer "
        + token.encode()
        + b"\r\n\r\n",
    }
    with ExitStack() as stack:
        served = {each: stack.enter_context(serving(each, urls)) for each in PROTOCOLS}
        for path, request in requests.items():
            found: dict[str, list[tuple[float, float]]] = {each: [] for each in PROTOCOLS}
            for _ in range(rounds):
                for protocol in PROTOCOLS:
                    found[protocol].append(request_for(served[protocol], request, seconds))
            rates, cpu = (
                [statistics.median(each[part] for each in found[name]) for name in PROTOCOLS]
                for part in (0, 1)
            )
            print(
                f"{path:14} stock {rates[0]:7,.0f} requests/s {cpu[0]:6.0f} µs CPU,"
                f" ours {rates[1]:7,.0f} requests/s {cpu[1]:6.0f} µs CPU;"
                f" ratio {rates[1] / rates[0]:.2f}, CPU {cpu[1] / cpu[0]:.2f}"
            )


def send_large(served: Served, data: bytes, total: int) -> str:
    """Send a head of this size; return what came of it."""
    sent = 0
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        with suppress(OSError):
            connection.sendall(HEAD + b"X-First: ")
            while sent < total:
                connection.sendall(data)
                sent += len(data)
            connection.sendall(b"\r\n\r\n")
        try:
            status = connection.recv(4_096)[9:12].decode() or "closed"
        except OSError:
            status = "closed"
    return f"{sent / MB:.1f} MB were sent, {status}"


def send_half(served: Served, connections: int) -> str:
    """Open connections that send a part of a head; return how many are open after some seconds."""
    with ExitStack() as stack:
        opened = []
        for _ in range(connections):
            with suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", served.port), 5)
                stack.enter_context(connection)
                connection.sendall(HEAD)
                opened.append(connection)
        time.sleep(AFTER_S)
        left = sum(each.status == "ESTABLISHED" for each in served.process.net_connections("tcp"))
    return f"{len(opened):,} were opened, {left:,} are left after {AFTER_S:.0f} s"


def measure_attacks(urls: DatabaseUrls, megabytes: int, half_sent: int) -> None:
    """Print what each attack costs each protocol."""
    header, total = b"X-Attack: aaaaaaaa\r\n", megabytes * MB
    attacks: dict[str, Callable[[Served], str]] = {
        f"{megabytes} MB of headers": lambda served: send_large(served, header * 50_000, total),
        "one endless header": lambda served: send_large(served, b"a" * MB, total),
        f"{half_sent:,} half-sent requests": lambda served: send_half(served, half_sent),
    }
    for name, attack in attacks.items():
        for protocol in PROTOCOLS:
            with serving(protocol, urls) as served:
                time.sleep(SETTLE_S)
                before_mb = served.peak_mb
                prober = Prober(served)
                prober.start()
                outcome = attack(served)
                time.sleep(SETTLE_S)
                latencies = prober.stop()
                grown_mb = served.peak_mb - before_mb
                print(f"{name}, {protocol}: {grown_mb:+,.0f} MB; {latencies}; {outcome}")


def measure_counting(urls: DatabaseUrls) -> None:
    """Print the CPU time of counting one request."""
    quotas = KeyQuotas(Settings(), RateCounter())
    keys = [(uuid4(), uuid4()) for _ in range(50)]
    scope = {"type": "http", "method": "GET", "route": SimpleNamespace(path="/api/accounts")}
    connection = HTTPConnection({**scope, "headers": []})
    started_s = time.process_time()
    for number in range(COUNTS):
        quotas.count(connection, *keys[number % len(keys)], Role.ADMIN)
    in_memory_us = (time.process_time() - started_s) / COUNTS * 1_000_000
    with psycopg.connect(urls.owner, autocommit=True) as database_:
        database_.execute("CREATE UNLOGGED TABLE counted (key uuid PRIMARY KEY, requests bigint)")
        (pid,) = database_.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        backend = psutil.Process(pid)
        own_s, backend_s = time.process_time(), sum(backend.cpu_times()[:2])
        wall_s = time.perf_counter()
        for number in range(UPSERTS):
            database_.execute(UPSERT, (UUID(int=number % 50),))
        upsert_s = time.process_time() - own_s + sum(backend.cpu_times()[:2]) - backend_s
        wall_s = time.perf_counter() - wall_s
    upsert_us = upsert_s / UPSERTS * 1_000_000
    print(
        f"counting a request: in memory {in_memory_us:.1f} µs CPU, by an upsert {upsert_us:.0f} µs"
        f" CPU and {wall_s / UPSERTS * 1_000_000:.0f} µs of time;"
        f" ratio {upsert_us / in_memory_us:.0f}"
    )


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--half-sent", type=int, default=7_000)
    parser.add_argument("--megabytes", type=int, default=101)
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        protocol, port, *urls = given.serve
        serve(protocol, int(port), urls)
        return
    raise_open_files_limit(OPEN_FILES)
    with database() as found:
        token = fill(found, ROWS)
        measure_traffic(found, token, given.seconds, given.rounds)
        measure_attacks(found, given.megabytes, given.half_sent)
        measure_counting(found)


if __name__ == "__main__":
    main()
