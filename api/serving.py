"""uvicorn with Annals' settings."""

import uvicorn

from api.operations.logs import logging_config
from api.settings import Settings

KEEP_ALIVE_TIMEOUT_S = 30


def serve_api(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT; open requests get shutdown_timeout_s seconds.

    One worker: the realtime hub and the pools live in it. More of them are more processes, each
    `annals serve` on its own port.
    """
    from api.app import create_app

    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        access_log=False,  # RequestContext writes a line with the request's id
        log_config=logging_config(settings, "api"),
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
        server_header=False,
    )
