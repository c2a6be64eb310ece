"""DirectQuery: one prepared statement and hints on one connection of an event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventlog.hints import APPENDED, Hinter, listen
from eventlog.libpq.listening import DirectQuery
from tests.support.databases import Urls

LENGTH = "SELECT length($1::text), nullif($1, '')"
WAIT_S = 60.0
BYTES = 16 * 2**20


def call(
    urls: Urls,
    statement: str,
    act: Callable[[DirectQuery], Awaitable[None]],
    run_loop: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """Prepare the statement on a connection that listens, and call `act` in an event loop."""

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(urls.app, autocommit=True) as connection:
            query = await DirectQuery.prepare(connection, statement)
            await listen(connection, APPENDED)
            await asyncio.wait_for(act(query), WAIT_S)

    run_loop(run())


def test_statement_is_executed_again_and_again(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        with query.receiving(lambda: None):
            assert await query.execute("abc") == [[b"3", b"abc"]]
            assert await query.execute("") == [[b"0", b""]]

    call(urls, LENGTH, act)


def test_parameter_larger_than_the_buffers_of_the_socket_arrives_whole(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        with query.receiving(lambda: None):
            rows = await query.execute("x" * BYTES)
            assert rows[0][0] == str(BYTES).encode()
            assert await query.execute("abc") == [[b"3", b"abc"]]

    call(urls, LENGTH, act)


def test_refused_statement_raises_and_the_next_one_is_executed(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        with query.receiving(lambda: None):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await query.execute("0")
            assert await query.execute("2") == [[b"5"]]

    call(urls, "SELECT 10 / $1::integer", act)


def test_hints_are_received_between_and_during_statements(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        hinted = asyncio.Event()
        hinter = Hinter(urls.app)
        try:
            with query.receiving(hinted.set):
                hinter.hint()
                await hinted.wait()
                hinted.clear()
                executed = asyncio.create_task(query.execute("0.5"))
                await asyncio.sleep(0)  # the statement is sent
                hinter.hint()
                await executed
                await hinted.wait()
        finally:
            hinter.close()

    call(urls, "SELECT pg_sleep($1::float)", act)


def test_lost_connection_is_reported_and_raised(urls: Urls) -> None:
    async def act(query: DirectQuery) -> None:
        hinted = asyncio.Event()
        with query.receiving(hinted.set):
            rows = await query.execute("0")
            with psycopg.connect(urls.superuser, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s)", (int(rows[0][0]),))
            await hinted.wait()
            with pytest.raises(psycopg.OperationalError):
                await query.execute("0")

    call(urls, "SELECT pg_backend_pid() + $1::integer", act)


FATAL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\0"


async def relay(listener: socket.socket, url: str, ends: asyncio.Event) -> None:
    """Pass a connection on to the server. Once `ends` is set, answer the next message as a backend
    does whose postmaster was killed: with an error, and by a reset, as it has not read the message.
    """
    loop, server = asyncio.get_running_loop(), conninfo_to_dict(url)
    client, _ = await loop.sock_accept(listener)
    upstream = socket.create_connection((str(server["host"]), int(str(server["port"]))))
    client.setblocking(False)
    upstream.setblocking(False)

    async def answer() -> None:
        while received := await loop.sock_recv(upstream, 65_536):
            await loop.sock_sendall(client, received)

    answering = asyncio.create_task(answer())
    while (sent := await loop.sock_recv(client, 65_536)) and not ends.is_set():
        await loop.sock_sendall(upstream, sent)
    # Message and reset are both there when the event loop looks at the client's socket again.
    client.send(b"E" + struct.pack("!i", 4 + len(FATAL)) + FATAL)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    upstream.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_connection_that_is_reset_after_the_last_message_is_lost(
    urls: Urls, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def execute_when_reset() -> None:
        ends = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            relaying = asyncio.create_task(relay(listener, urls.app, ends))
            url = make_conninfo(
                urls.app, host="127.0.0.1", port=listener.getsockname()[1], sslmode="disable"
            )
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                query = await DirectQuery.prepare(connection, LENGTH)
                with query.receiving(lambda: None):
                    assert await query.execute("abc") == [[b"3", b"abc"]]
                    ends.set()
                    with pytest.raises(psycopg.OperationalError):
                        await asyncio.wait_for(query.execute("abc"), WAIT_S)
            await relaying

    run(execute_when_reset())


def test_the_descriptor_of_a_lost_connection_is_free_for_others(urls: Urls) -> None:
    """libpq closes it at once, and the next connection of the process may have its number."""

    async def act(query: DirectQuery) -> None:
        hinted = asyncio.Event()
        ours, theirs = socket.socketpair()
        number = query._connection.fileno()
        with query.receiving(hinted.set):
            with psycopg.connect(urls.superuser, autocommit=True) as superuser:
                pid = query._connection.info.backend_pid
                superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))
            await hinted.wait()
            while not query._connection.closed:
                await asyncio.sleep(0.01)  # the message comes before the end of the connection
            os.dup2(ours.fileno(), number)
            loop, received = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(number, received.set)
            theirs.send(b"x")
        await asyncio.wait_for(received.wait(), WAIT_S)
        loop.remove_reader(number)
        ours.close()
        theirs.close()
        os.close(number)

    call(urls, LENGTH, act, uvloop.run)
