"""The API process: uvicorn with Annals' settings."""

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
from server.processes.http_protocol import bounded_protocol

MESSAGE_MAX_BYTES = 4_096
"""Longest accepted WebSocket message; messages from clients are ignored."""
OTHER_FILES = 256
"""Open files that a process needs in addition to its connections."""


class Server(uvicorn.Server):
    """Ends event streams, which never end on their own, before it waits for open requests."""

    def __init__(self, config: uvicorn.Config, stopping: Shutdown) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then shut down as uvicorn does."""
        self._stopping.begin()
        await super().shutdown(sockets)


def serve_api(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT; open requests get shutdown_timeout_s seconds.

    One uvicorn worker, which holds the realtime hub and the pools. To use more processes, run
    `annals serve` several times on different ports.
    """
    from api.app import create_app

    raise_open_files_limit(settings.http_connections_max + OTHER_FILES)
    app = create_app(settings)
    tune_gc()
    server = make_server(app, settings, log_config=logging_config(settings, "api"))
    server.run(sockets=[open_socket(server.config, settings.unread_timeout_s)])


def make_server(app: FastAPI, settings: Settings, **others: Any) -> Server:
    """Return a server for the app; `others` are more settings of uvicorn."""
    options = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": bounded_protocol(settings),
        "access_log": False,  # RequestContext logs requests with their id
        "timeout_graceful_shutdown": settings.shutdown_timeout_s,
        "timeout_keep_alive": settings.http_idle_timeout_s,
        # ClientAddress reads the headers of trusted proxies; uvicorn's own default trusts loopback.
        "proxy_headers": False,
        "server_header": False,
        "ws_max_size": MESSAGE_MAX_BYTES,
        # Messages are short: a compressor for each client costs more than it saves.
        "ws_per_message_deflate": False,
        **others,
    }
    return Server(uvicorn.Config(app, **options), getattr(app.state, "shutdown", Shutdown()))


def open_socket(config: uvicorn.Config, unread_timeout_s: float) -> socket.socket:
    """Open the listening socket, with a limit for clients that do not read.

    On Linux the kernel disconnects such a client (TCP_USER_TIMEOUT), because closing the connection
    would wait without limit for the client to read. Elsewhere it stays until the process ends.
    """
    listener = config.bind_socket()
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = int(unread_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listener


def raise_open_files_limit(wanted: int) -> None:
    """Raise this process's limit of open files to `wanted`, or as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
