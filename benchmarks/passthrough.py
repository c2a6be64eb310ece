"""What HTTP allows: a server that passes ready JSON through, and a client that counts requests.

    python -m benchmarks.passthrough PORT < statement.sql      (ANNALS_BENCHMARK_URL: the database)

Starlette and psycopg's asynchronous pool run one statement for each request and send the text that
it returns: no access, limits, parameters or metrics.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import uvicorn
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventlog.retries import poll_until

URL_VARIABLE = "ANNALS_BENCHMARK_URL"
POOL_MAX = 8
START_WAIT_S = 60.0
POLL_S = 0.1
WARM_UP_S = 0.5


@contextmanager
def passing_through(database_url: str, statement: str, port: int) -> Iterator[tuple[str, int]]:
    """Run the server in a process of its own; give its URL and process id."""
    with running("benchmarks.passthrough", database_url, port, statement.encode()) as found:
        yield found


@contextmanager
def running(
    module: str, database_url: str, port: int, given: bytes = b""
) -> Iterator[tuple[str, int]]:
    """Run a module that serves at this port; give its URL and process id. given: its input."""
    command = [sys.executable, "-P", "-m", module, str(port)]
    environment = {**os.environ, URL_VARIABLE: database_url}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    url = f"http://127.0.0.1:{port}"
    try:
        if not poll_until(lambda: _answers(url), START_WAIT_S, POLL_S):
            raise TimeoutError("the server does not start")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Load:
    """What a server answered, and the CPU that it and PostgreSQL took for a request."""

    requests_per_s: float
    server_us: float
    postgres_us: float


def load(
    url: str,
    path: str,
    headers: dict[str, str],
    *,
    pid: int,
    database_url: str,
    connections: int,
    seconds: float,
) -> Load:
    """Ask for one path repeatedly on several connections.

    pid: the server's process. Raises `OSError` for an answer that is no success.
    """
    messages = itertools.repeat(message(url, "GET", path, headers))
    return send_all(
        url,
        messages,
        pid=pid,
        database_url=database_url,
        connections=connections,
        seconds=seconds,
    )


def message(
    url: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> bytes:
    """Return a request as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def send_all(
    url: str,
    messages: Iterator[bytes],
    *,
    pid: int,
    database_url: str,
    connections: int,
    seconds: float,
) -> Load:
    """Send requests on several connections, each when the answer to the one before has come.

    pid: the server's process. Raises `OSError` for an answer that is no success.
    """
    server = psutil.Process(pid)
    with psycopg.connect(database_url) as connection:
        postmaster = psutil.Process(connection.info.backend_pid).parent()
    assert postmaster is not None
    asyncio.run(_requests(url, messages, connections, WARM_UP_S))
    before, before_each = _cpu_s(server), _cpu_of_children_s(postmaster)
    count, taken_s = asyncio.run(_requests(url, messages, connections, seconds))
    after, after_each = _cpu_s(server), _cpu_of_children_s(postmaster)
    # A process that ended meanwhile is left out.
    postgres_s = sum(cpu_s - before_each.get(pid, 0.0) for pid, cpu_s in after_each.items())
    return Load(count / taken_s, (after - before) / count * 1e6, postgres_s / count * 1e6)


def _cpu_of_children_s(process: psutil.Process) -> dict[int, float]:
    return {each.pid: _cpu_s(each) for each in process.children()}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _requests(
    url: str, messages: Iterator[bytes], connections: int, seconds: float
) -> tuple[int, float]:
    """The number of answered requests, and the seconds that they took."""
    address = urlsplit(url)
    started = time.perf_counter()
    asked = [
        _ask(address.hostname or "", address.port or 80, messages, started + seconds)
        for _ in range(connections)
    ]
    counts = await asyncio.gather(*asked)
    return sum(counts), time.perf_counter() - started


async def _ask(host: str, port: int, messages: Iterator[bytes], until: float) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    count = 0
    while time.perf_counter() < until:
        writer.write(next(messages))
        head = await reader.readuntil(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        if b" 200 " not in status and b" 201 " not in status:
            raise OSError(status.decode())
        length = next(each for each in fields if each.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        count += 1
    writer.close()
    await writer.wait_closed()
    return count


def application(database_url: str, statement: bytes) -> Starlette:
    """The server: one statement, whose text is the response."""
    pool = AsyncConnectionPool(
        database_url, min_size=1, max_size=POOL_MAX, open=False, kwargs={"autocommit": True}
    )

    async def answer(_request: Request) -> Response:
        async with pool.connection() as connection:
            row = await (await connection.execute(statement, prepare=True)).fetchone()
        assert row is not None
        return Response(row[0], media_type="application/json")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with pool:
            yield

    return Starlette(routes=[Route("/", answer)], lifespan=lifespan)


def main() -> None:
    app = application(os.environ[URL_VARIABLE], sys.stdin.buffer.read())
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
