"""Logging as JSON lines on standard output, in the same format in every process."""

from __future__ import annotations

import logging
import logging.config
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from runtime.settings import Settings

current_request_id: ContextVar[str] = ContextVar("annals_request_id", default="")
"""The id of the current request, for all log lines written while it is served."""


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object, with the current request's id and the record's `facts`."""

    def __init__(self, service: str = "api") -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := current_request_id.get():
            line["requestId"] = request_id
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def logging_config(settings: Settings, service: str) -> dict[str, Any]:
    """Return the argument of `dictConfig`: JSON lines, from libraries only warnings and errors."""
    level = (settings.log_level or "info").upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines, "service": service}},
        "handlers": {
            "out": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"handlers": ["out"], "level": level},
        "loggers": {
            name: {"level": max(level, "WARNING", key=logging.getLevelName)}
            for name in ("uvicorn", "kafka", "psycopg", "opentelemetry", "urllib3")
        },
    }


def configure_logging(settings: Settings, service: str) -> None:
    """Configure the logging of this process. Call it when the process starts."""
    logging.config.dictConfig(logging_config(settings, service))
