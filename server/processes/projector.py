"""The projector process: follows the log and keeps the read tables up to date."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from eventlog.reading import RecordedEvent
from projections.engine.live.runner import Batch, Observe, ProjectionEngine, unobserved
from projections.engine.live.statistics import WorkStatistics
from projections.engine.registry import PROJECTIONS, versions
from readmodels import table_definitions
from runtime.logs import configure_logging
from runtime.process import stopped_by_signals, tune_gc
from runtime.settings import Settings
from runtime.tracing import open_tracing
from server.processes.projector_maintenance import ProjectorMaintenance

log = logging.getLogger(__name__)


class Projector(Protocol):
    """Keeps the read tables up to date from any source."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def run_projector(settings: Settings) -> None:
    """Keep all projections up to date until SIGTERM or SIGINT. The current batch is completed.

    Raises `LookupError` if ANNALS_PROJECTOR_URL is not set or a projection is not installed.
    """
    configure_logging(settings, "projector")
    tune_gc()
    work, tracing = WorkStatistics(settings.source), open_tracing(settings, "annals-projector")

    def observe(batch: Batch, events: Sequence[RecordedEvent]) -> None:
        work.note(batch.events, batch.seconds)
        if tracing is not None:
            tracing.batch(settings.source, events, batch.seconds)

    open_engine = open_group_engine if settings.source == "kafka" else open_projection_engine
    engine: Projector = open_engine(settings, observe)
    try:
        with stopped_by_signals(engine.stop):
            log.info("projecting %s from %s", ", ".join(PROJECTIONS), settings.source)
            with ProjectorMaintenance(settings, work):
                engine.run()
    finally:
        if tracing is not None:
            tracing.close()


def open_projection_engine(settings: Settings, observe: Observe = unobserved) -> ProjectionEngine:
    """Open the engine that follows the log, with all projections."""
    return ProjectionEngine(
        _url(settings),
        PROJECTIONS.values(),
        versions=versions(table_definitions()),
        batch_events=settings.projection_batch_size,
        poll_interval_s=settings.poll_interval_ms / 1000,
        observe=observe,
    )


def open_group_engine(settings: Settings, observe: Observe = unobserved) -> Projector:
    """Open a member of the Kafka consumer group, with all projections."""
    # Imported here, so that a projector that follows the log starts without the Kafka client.
    from projections.engine.kafka.consumer import GroupEngine
    from server.processes.relay import configure_broker

    return GroupEngine(
        _url(settings),
        PROJECTIONS.values(),
        configure_broker(settings),
        versions=versions(table_definitions()),
        observe=observe,
    )


def _url(settings: Settings) -> str:
    if settings.projector_url is None:
        raise LookupError("ANNALS_PROJECTOR_URL is not set")
    return settings.projector_url
