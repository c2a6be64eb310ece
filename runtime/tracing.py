"""OpenTelemetry traces from a request to the projections of what it wrote. Optional.

The trace context of a request goes into the metadata of its events (`traceparent`, W3C Trace
Context); a projector links its batch to the requests whose events are in it. Without
ANNALS_OTEL_ENDPOINT, or without the group `otel` installed, nothing of this is even imported.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from eventlog.reading import RecordedEvent
from runtime.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, TracerProvider

log = logging.getLogger(__name__)

TRACEPARENT = "traceparent"
LINKS_MAX = 100
"""Most requests that the span of one batch is linked to."""
NS_PER_S = 1_000_000_000


class RequestSpan:
    """The span of one request, while it is served."""

    def __init__(self, span: Any, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent
        """For the metadata of the events that the request brings about."""

    @property
    def trace_id(self) -> str:
        """For log lines."""
        return format(self._span.get_span_context().trace_id, "032x")

    def end(self, method: str, route: str, status: int, request_id: str) -> None:
        """What became of the request."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "annals.request_id": request_id,
            }
        )
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)


class SpanExporter:
    """Makes the spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("annals")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """A span for a request, below the one that its `traceparent` header names."""
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(dict(headers))
        with self._tracer.start_as_current_span(
            "request", context=parent, kind=SpanKind.SERVER
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            yield RequestSpan(span, carrier.get(TRACEPARENT, ""))

    def batch(self, source: str, events: Sequence[RecordedEvent], seconds: float) -> None:
        """A span for a batch that was applied just now.

        It is linked to the requests that wrote its events; where all are of one request, it is
        part of that trace.
        """
        from opentelemetry.trace import SpanKind

        traceparents = _traceparents(events)
        if not traceparents:
            return
        contexts = [self._propagator.extract({TRACEPARENT: each}) for each in traceparents]
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            "project",
            context=contexts[0] if len(contexts) == 1 else _no_context(),
            kind=SpanKind.CONSUMER,
            links=[_link(each) for each in contexts],
            attributes={
                "annals.source": source,
                "annals.events": len(events),
                "annals.first_position": events[0].position,
                "annals.last_position": events[-1].position,
            },
            start_time=ended_ns - int(seconds * NS_PER_S),
        )
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is still to be sent."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            shutdown()


def open_tracing(settings: Settings, service: str) -> SpanExporter | None:
    """Tracing as the settings have it; None where nothing is to be traced."""
    if settings.otel_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("ANNALS_OTEL_ENDPOINT is set, but the packages of the group otel are missing")
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    endpoint = f"{settings.otel_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return SpanExporter(provider)


def _traceparents(events: Sequence[RecordedEvent]) -> list[str]:
    """The trace contexts in the metadata of events, each once."""
    found: dict[str, None] = {}
    for event in events:
        if b'"traceparent"' in event.metadata:
            traceparent = orjson.loads(event.metadata).get(TRACEPARENT)
            if isinstance(traceparent, str):
                found[traceparent] = None
        if len(found) == LINKS_MAX:
            break
    return list(found)


def _no_context() -> Context:
    from opentelemetry.context import Context

    return Context()


def _link(context: Context) -> Link:
    from opentelemetry.trace import Link, get_current_span

    return Link(get_current_span(context).get_span_context())
