"""A projector process: follows the log and keeps the read tables until it is told to stop."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Protocol

from api.settings import Settings
from projections.engine.registry import PROJECTIONS, version
from projections.engine.runner import Engine
from readmodels import table_definitions

log = logging.getLogger(__name__)


class Projector(Protocol):
    """What keeps the read tables, wherever it reads."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_projector(settings: Settings) -> None:
    """Keep all projections up to date until SIGTERM or SIGINT; the batch at hand is finished.

    Raises `LookupError` where ANNALS_PROJECTOR_URL is not set or a projection is not installed.
    """
    engine: Projector = (
        open_group(settings) if settings.source == "kafka" else open_engine(settings)
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        engine.stop()

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    log.info("projecting %s from %s", ", ".join(PROJECTIONS), settings.source)
    try:
        engine.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_engine(settings: Settings) -> Engine:
    """The engine with all projections, as the settings have it."""
    return Engine(
        _url(settings),
        PROJECTIONS.values(),
        versions=_versions(),
        batch_events=settings.projection_batch_size,
        poll_interval_s=settings.poll_interval_ms / 1000,
    )


def open_group(settings: Settings) -> Projector:
    """One member of the group that consumes the topic, as the settings have it."""
    # Here and not above: whoever follows the log starts quicker without a client of Kafka.
    from api.kafka import broker_of
    from projections.engine.kafka_source import GroupEngine

    return GroupEngine(
        _url(settings), PROJECTIONS.values(), broker_of(settings), versions=_versions()
    )


def _url(settings: Settings) -> str:
    if settings.projector_url is None:
        raise LookupError("ANNALS_PROJECTOR_URL is not set")
    return settings.projector_url


def _versions() -> dict[str, str]:
    return {name: version(name, text) for name, text in table_definitions().items()}
