"""/metrics: what this process counts, and what the database says of log and projections.

Two sources, each for its own: requests, appends and pools are this process's; lag, batches,
rebuilds and faults are in the database, and the same whichever process is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector

from domain.shared.breaker import State
from projections.engine.live.statistics import EVENTS_BOUNDS, SECONDS_BOUNDS
from runtime.health import HealthSnapshot, ProjectionState

REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
APPEND_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Methods and paths that the API does not have: whoever sends them could name any number."""

Statistics = Mapping[str, int]

POOL_GAUGES = {
    "size": ("pool_size", "Connections that the pool has."),
    "max": ("pool_max", "Most connections that it may have."),
    "available": ("pool_available", "Connections that nobody uses."),
    "waiting": ("requests_waiting", "Requests that wait for a connection."),
}
POOL_COUNTERS = {
    "requests": ("requests_num", "Connections asked for."),
    "queued": ("requests_queued", "Of those, how many had to wait."),
    "errors": ("requests_errors", "Of those, how many got none."),
    "wait_milliseconds": ("requests_wait_ms", "Time waited for connections."),
    "lost": ("connections_lost", "Connections that broke."),
}

REALTIME: Mapping[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str]] = {
    "subscribers": (GaugeMetricFamily, "Clients that follow changes now."),
    "cut_off": (CounterMetricFamily, "Of them, those that were too slow so far."),
    "facts": (CounterMetricFamily, "Events told to them, each counted once."),
}

PROJECTION_GAUGES: Mapping[str, tuple[str, Callable[[ProjectionState], float]]] = {
    "position": (
        "All events up to here are in its rows.", lambda each: each.facts["position"],
    ),
    "lag_events": (
        "Events that it has not read yet; counted up to 100000.",
        lambda each: each.facts["lagEvents"],
    ),
    "lag_seconds": (
        "Age of the first event that it has not read.", lambda each: each.facts["lagSeconds"],
    ),
    "idle_seconds": (
        "Time since its checkpoint moved.", lambda each: each.facts["idleSeconds"],
    ),
    "parked_entities": (
        "Entities that it could not digest.", lambda each: each.facts["parked"],
    ),
    "coverage_faults": (
        "Ranges in which it consumed something else than the log holds.",
        lambda each: each.facts["faults"],
    ),
    "held": ("Whether a projector works on it.", lambda each: each.is_held),
    "stalled": (
        "Whether it makes no progress though there is something to do.",
        lambda each: each.is_stalled,
    ),
    "outdated": (
        "Whether its code is another than that by which its rows were made.",
        lambda each: each.facts["version"] != each.facts["wantedVersion"],
    ),
}  # fmt: skip


PROCESS_GAUGES = {
    "position": "It has reacted to all events up to here.",
    "lag_events": "Events that it has not reacted to yet; counted up to 100000.",
    "lag_seconds": "Age of the first event that it has not reacted to.",
    "commands_waiting": "Commands that it gave and that are not done yet.",
    "commands_waiting_seconds": "Age of the oldest of these.",
}


class Metrics:
    """What one API process counts. Thread-safe."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "annals_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "annals_http_request_seconds",
            "From the head of a request to the end of its answer.",
            ["method", "route"],
            buckets=REQUEST_BOUNDS_S,
            registry=self._registry,
        )
        self._append_seconds = Histogram(
            "annals_append_seconds",
            "Appends to the log; those within a longer transaction without its commit.",
            buckets=APPEND_BOUNDS_S,
            registry=self._registry,
        )
        self.hints_sent: Callable[[], int] = lambda: 0
        """Tells how many hints this process has sent."""
        self.hub: Callable[[], Statistics] = dict
        """Tells of those who follow changes."""
        self.pools: dict[str, Callable[[], Statistics]] = {}
        """Tell of the pools, by name, in psycopg's words."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is the template of its path."""
        method = method if method in METHODS else OTHER
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def append(self, seconds: float) -> None:
        """Something was appended to the log."""
        self._append_seconds.observe(seconds)

    def exposition(self, view: HealthSnapshot) -> bytes:
        """All of it in Prometheus' text format."""
        counted = generate_latest(self._registry)
        return (
            counted
            + generate_latest(_Families(self._own))
            + generate_latest(_Families(lambda: families(view)))
        )

    def _own(self) -> Iterator[Metric]:
        hints = "Hints sent to followers that there is something new."
        yield CounterMetricFamily("annals_hints_sent", hints, value=self.hints_sent())
        told_of_hub = self.hub()
        for name, (family, help_text) in REALTIME.items():
            yield family(f"annals_realtime_{name}", help_text, value=told_of_hub.get(name, 0))
        statistics = {name: tell() for name, tell in self.pools.items()}
        for name, (key, help_text) in POOL_GAUGES.items():
            gauge = GaugeMetricFamily(f"annals_pool_{name}", help_text, labels=["pool"])
            for pool, told in statistics.items():
                gauge.add_metric([pool], told.get(key, 0))
            yield gauge
        for name, (key, help_text) in POOL_COUNTERS.items():
            counter = CounterMetricFamily(f"annals_pool_{name}", help_text, labels=["pool"])
            for pool, told in statistics.items():
                counter.add_metric([pool], told.get(key, 0))
            yield counter


class _Families:
    """A collector of what a function gives."""

    def __init__(self, tell: Callable[[], Iterable[Metric]]) -> None:
        self._tell = tell

    def collect(self) -> Iterable[Metric]:
        """For the library."""
        return self._tell()


def families(view: HealthSnapshot) -> Iterator[Metric]:
    """What the database says, as metrics."""
    up = "Whether the database answered the last question."
    yield GaugeMetricFamily("annals_database_up", up, value=not view.error)
    if view.error or not view.projections:
        return
    yield GaugeMetricFamily(
        "annals_log_position", "Up to here the log can be read.", value=view.position
    )
    for name, (help_text, value) in PROJECTION_GAUGES.items():
        gauge = GaugeMetricFamily(f"annals_projection_{name}", help_text, labels=["projection"])
        for each in view.projections:
            gauge.add_metric([each.name], float(value(each)))
        yield gauge
    checked = GaugeMetricFamily(
        "annals_projection_coverage_position",
        "Up to here its coverage was compared with the log.",
        labels=["projection"],
    )
    for projection, newest, _ in view.checks:
        checked.add_metric([projection], newest)
    yield checked
    yield from _sending(view)
    yield from _rebuilds(view)
    yield from _batches(view)
    yield from _jobs(view)


def _sending(view: HealthSnapshot) -> Iterator[Metric]:
    """Processes that follow the log, and the breaker of the gateway that they send by."""
    for column, (name, help_text) in enumerate(PROCESS_GAUGES.items(), start=1):
        gauge = GaugeMetricFamily(f"annals_process_{name}", help_text, labels=["process"])
        for row in view.processes:
            gauge.add_metric([row[0]], float(row[column]))
        yield gauge
    for name, state, failures, open_s in view.breakers:
        now = GaugeMetricFamily(
            f"annals_{name}_gateway_state", "1 for the state of its breaker.", labels=["state"]
        )
        for each in State:
            now.add_metric([each.value], float(each == state))
        yield now
        counted = "Failures that its breaker counts."
        yield GaugeMetricFamily(f"annals_{name}_gateway_failures", counted, value=failures)
        left = "Time until the breaker lets a probe through, or gives one up."
        yield GaugeMetricFamily(f"annals_{name}_gateway_wait_seconds", left, value=open_s)


def _rebuilds(view: HealthSnapshot) -> Iterator[Metric]:
    processed = GaugeMetricFamily(
        "annals_rebuild_processed_events",
        "Events that its rebuild has read.",
        labels=["projection"],
    )
    total = GaugeMetricFamily(
        "annals_rebuild_total_events", "Events that its rebuild has to read.", labels=["projection"]
    )
    # Of several rows for one projection, all but the newest are of rebuilds that died.
    for projection, (done, all_events) in {row[0]: row[2:] for row in view.rebuilds}.items():
        processed.add_metric([projection], done)
        total.add_metric([projection], all_events)
    yield processed
    yield total


def _batches(view: HealthSnapshot) -> Iterator[Metric]:
    by_events = HistogramMetricFamily(
        "annals_projector_batch_events", "Events in a batch of a projector.", labels=["source"]
    )
    by_seconds = HistogramMetricFamily(
        "annals_projector_batch_seconds", "Time to fold and apply a batch.", labels=["source"]
    )
    for source, events, seconds, events_counts, seconds_counts in view.work:
        by_events.add_metric([source], _buckets(EVENTS_BOUNDS, events_counts), events)
        by_seconds.add_metric([source], _buckets(SECONDS_BOUNDS, seconds_counts), seconds)
    yield by_events
    yield by_seconds


def _jobs(view: HealthSnapshot) -> Iterator[Metric]:
    jobs = view.jobs
    yield GaugeMetricFamily("annals_jobs_open", "Jobs that have not ended.", value=jobs.open)
    oldest = "Age of the oldest job that has not ended."
    yield GaugeMetricFamily("annals_jobs_oldest_seconds", oldest, value=jobs.oldest_s)
    idle = "Time since a worker took up one of the jobs that have not ended."
    yield GaugeMetricFamily("annals_jobs_idle_seconds", idle, value=jobs.idle_s)


def _buckets(bounds: Iterable[float], counts: list[int]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus wants them."""
    found, below = [], 0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=False):
        below += count
        found.append((bound, float(below)))
    return found


def route_of(scope: Mapping[str, Any]) -> str:
    """The template of the path of a request that was routed."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else OTHER
