"""uvicorn with Annals' settings."""

from __future__ import annotations

import resource
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from api.http.shutdown import Shutdown
from runtime.logs import logging_config
from runtime.process import tune_gc
from runtime.settings import Settings

KEEP_ALIVE_TIMEOUT_S = 30
MESSAGE_MAX_BYTES = 4_096
"""Longest message that is taken over a WebSocket; nothing that clients send there has a meaning."""
FILES_BESIDE = 256
"""Open files that a process needs besides its subscribers."""


class Server(uvicorn.Server):
    """Ends streams before it waits for open requests: they would go on for ever."""

    def __init__(self, config: uvicorn.Config, stopping: Shutdown) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, once the streams know."""
        self._stopping.begin()
        await super().shutdown(sockets)


def serve_api(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT; open requests get shutdown_timeout_s seconds.

    One worker: the realtime hub and the pools live in it. More of them are more processes, each
    `annals serve` on its own port.
    """
    from api.app import create_app

    allow_open_files(settings.realtime_subscribers_max + FILES_BESIDE)
    app = create_app(settings)
    tune_gc()
    server = server_of(app, settings, log_config=logging_config(settings, "api"))
    server.run(sockets=[listening(server.config, settings.unread_timeout_s)])


def server_of(app: FastAPI, settings: Settings, **others: Any) -> Server:
    """A server for the app; `others` are settings of uvicorn."""
    chosen = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": "httptools",
        "access_log": False,  # RequestContext writes a line with the request's id
        "timeout_graceful_shutdown": settings.shutdown_timeout_s,
        "timeout_keep_alive": KEEP_ALIVE_TIMEOUT_S,
        "server_header": False,
        "ws_max_size": MESSAGE_MAX_BYTES,
        # Messages are short: a compressor for each of a thousand clients costs more than it saves.
        "ws_per_message_deflate": False,
        **others,
    }
    return Server(uvicorn.Config(app, **chosen), getattr(app.state, "shutdown", Shutdown()))


def listening(config: uvicorn.Config, unread_timeout_s: float) -> socket.socket:
    """The socket to listen on. A client that takes nothing for so long is disconnected.

    By the kernel (TCP_USER_TIMEOUT, Linux): a server that closes a connection would wait for ever
    until what it has written before is read. Elsewhere only the end of the process does it.
    """
    opened = config.bind_socket()
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = int(unread_timeout_s * 1000)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return opened


def allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files to what it may need, as far as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
