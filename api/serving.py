"""uvicorn with Annals' settings."""

import logging
from typing import Any

import orjson
import uvicorn

from api.middleware import current_request_id
from api.settings import Settings

KEEP_ALIVE_TIMEOUT_S = 30


class JsonLines(logging.Formatter):
    """One JSON object a record, with the id of the request at hand and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line["message"] = record.getMessage()
        if request_id := current_request_id.get():
            line["requestId"] = request_id
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "api.serving.JsonLines"}},
    "handlers": {
        "out": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}
    },
    "root": {"handlers": ["out"], "level": "INFO"},
    "loggers": {
        "uvicorn": {"handlers": ["out"], "level": "WARNING", "propagate": False},
    },
}


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
        log_config=LOGGING,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
        server_header=False,
    )
