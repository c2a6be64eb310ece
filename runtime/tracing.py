"""Optional OpenTelemetry traces, from a request to the projection of its events.

The trace context of a request is stored in the metadata of its events (`traceparent`, W3C Trace
Context). A projector links the span of a batch to the requests whose events are in it.
OpenTelemetry is imported only if ANNALS_OTEL_ENDPOINT is set.
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
"""Maximum number of requests that the span of one batch is linked to."""
NS_PER_S = 1_000_000_000


class RequestSpan:
    """The open span of one request."""

    def __init__(self, span: Any, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent
        """For the metadata of the events that the request records."""

    @property
    def trace_id(self) -> str:
        """The trace id in hexadecimal, for log lines."""
        return format(self._span.get_span_context().trace_id, "032x")

    def end(self, method: str, route: str, status: int, request_id: str) -> None:
        """Set the attributes of the response."""
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
    """Creates the spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("annals")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """Open a span for a request, as a child of the one in its `traceparent` header."""
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(dict(headers))
        with self._tracer.start_as_current_span(
            "request", context=parent, kind=SpanKind.SERVER
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            yield RequestSpan(span, carrier.get(TRACEPARENT, ""))

    def batch(self, source: str, events: Sequence[RecordedEvent], seconds: float) -> None:
        """Export a span for a batch that was just applied.

        It is linked to the requests that wrote its events. If there is only one such request, the
        span is part of its trace.
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
        """Export the remaining spans."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            shutdown()


def open_tracing(settings: Settings, service: str) -> SpanExporter | None:
    """Return the exporter that the settings configure; None if tracing is off."""
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
    """Return the distinct trace contexts in the metadata of events, at most LINKS_MAX."""
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
