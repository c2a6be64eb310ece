"""A projector process: follows the log and keeps the read tables until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from eventlog.reading import RecordedEvent
from projections.engine.live.runner import Batch, Observe, ProjectionEngine, unobserved
from projections.engine.live.statistics import WorkStatistics
from projections.engine.registry import PROJECTIONS, version
from readmodels import table_definitions
from runtime.logs import configure_logging
from runtime.process import stopped_by_signals, tune_gc
from runtime.settings import Settings
from runtime.tracing import open_tracing
from server.processes.projector_maintenance import ProjectorMaintenance

log = logging.getLogger(__name__)


class Projector(Protocol):
    """What keeps the read tables, wherever it reads."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def run_projector(settings: Settings) -> None:
    """Keep all projections up to date until SIGTERM or SIGINT; the batch at hand is finished.

    Raises `LookupError` where ANNALS_PROJECTOR_URL is not set or a projection is not installed.
    """
    configure_logging(settings, "projector")
    tune_gc()
    work, tracing = WorkStatistics(settings.source), open_tracing(settings, "annals-projector")

    def observe(batch: Batch, events: Sequence[RecordedEvent]) -> None:
        work.note(batch.events, batch.seconds)
        if tracing is not None:
            tracing.batch(settings.source, events, batch.seconds)

    open_one = open_group if settings.source == "kafka" else open_projection_engine
    engine: Projector = open_one(settings, observe)
    try:
        with stopped_by_signals(engine.stop):
            log.info("projecting %s from %s", ", ".join(PROJECTIONS), settings.source)
            with ProjectorMaintenance(settings, work):
                engine.run()
    finally:
        if tracing is not None:
            tracing.close()


def open_projection_engine(settings: Settings, observe: Observe = unobserved) -> ProjectionEngine:
    """The engine with all projections, as the settings have it."""
    return ProjectionEngine(
        _url(settings),
        PROJECTIONS.values(),
        versions=_versions(),
        batch_events=settings.projection_batch_size,
        poll_interval_s=settings.poll_interval_ms / 1000,
        observe=observe,
    )


def open_group(settings: Settings, observe: Observe = unobserved) -> Projector:
    """One member of the group that consumes the topic, as the settings have it."""
    # Here and not above: whoever follows the log starts quicker without a client of Kafka.
    from projections.engine.kafka.consumer import GroupEngine
    from server.processes.relay import broker_of

    return GroupEngine(
        _url(settings),
        PROJECTIONS.values(),
        broker_of(settings),
        versions=_versions(),
        observe=observe,
    )


def _url(settings: Settings) -> str:
    if settings.projector_url is None:
        raise LookupError("ANNALS_PROJECTOR_URL is not set")
    return settings.projector_url


def _versions() -> dict[str, str]:
    return {name: version(name, text) for name, text in table_definitions().items()}
