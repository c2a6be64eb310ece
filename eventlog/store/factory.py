"""The library's factory, so that its application uses this recorder and this mapper."""

from __future__ import annotations

from typing import Any

from eventsourcing.persistence import (
    ApplicationRecorder,
    InfrastructureFactory,
    Mapper,
    TrackingRecorder,
    Transcoder,
)
from eventsourcing.utils import Environment

from eventlog.store.mapper import EventMapper, OrjsonTranscoder
from eventlog.store.recorder import PostgresLogRecorder


class LogFactory(InfrastructureFactory[TrackingRecorder]):
    """Makes the recorder, mapper and transcoder of the library's application."""

    def __init__(self, env: Environment, recorder: PostgresLogRecorder) -> None:
        super().__init__(env)
        self.recorder = recorder

    def application_recorder(self) -> ApplicationRecorder:
        return self.recorder

    def aggregate_recorder(self, purpose: str = "events") -> ApplicationRecorder:
        return self.recorder

    def transcoder(self) -> Transcoder:
        return OrjsonTranscoder()

    def mapper(self, transcoder: Transcoder | None = None, mapper_class: Any = None) -> Mapper[Any]:
        return EventMapper(transcoder or self.transcoder())

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> Any:
        raise TypeError("projections keep their own checkpoints")

    def process_recorder(self) -> Any:
        raise TypeError("projections keep their own checkpoints")
