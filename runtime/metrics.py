"""/metrics: counters of this process, and the state of log and projections in the database.

Requests, appends and pools are those of this process. Lag, batches, rebuilds and faults come from
the database, so every process reports the same.
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
from runtime.health_snapshot import HealthSnapshot, ProjectionState

REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
APPEND_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Label of unknown methods and paths: clients could otherwise create any number of series."""

Statistics = Mapping[str, int]

POOL_GAUGES = {
    "size": ("pool_size", "Connections in the pool."),
    "max": ("pool_max", "Maximum number of connections in the pool."),
    "available": ("pool_available", "Idle connections."),
    "waiting": ("requests_waiting", "Requests waiting for a connection."),
}
POOL_COUNTERS = {
    "requests": ("requests_num", "Connections requested."),
    "queued": ("requests_queued", "Requests for a connection that had to wait."),
    "errors": ("requests_errors", "Requests for a connection that failed."),
    "wait_milliseconds": ("requests_wait_ms", "Total time spent waiting for connections."),
    "lost": ("connections_lost", "Connections lost."),
}

REALTIME: Mapping[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str]] = {
    "subscribers": (GaugeMetricFamily, "Subscribers connected now."),
    "cut_off": (CounterMetricFamily, "Subscribers disconnected because they were too slow."),
    "facts": (CounterMetricFamily, "Events sent to subscribers; each is counted once."),
}

PROJECTION_GAUGES: Mapping[str, tuple[str, Callable[[ProjectionState], float]]] = {
    "position": (
        "Position up to which all events are in its rows.", lambda each: each.facts["position"],
    ),
    "lag_events": (
        "Events that it has not processed yet; counted up to 100000.",
        lambda each: each.facts["lagEvents"],
    ),
    "lag_seconds": (
        "Age of the first event that it has not processed.", lambda each: each.facts["lagSeconds"],
    ),
    "idle_seconds": (
        "Time since its checkpoint last advanced.", lambda each: each.facts["idleSeconds"],
    ),
    "parked_entities": (
        "Entities parked after an event could not be projected.",
        lambda each: each.facts["parked"],
    ),
    "coverage_faults": (
        "Ranges of the log in which the events consumed differ from the log.",
        lambda each: each.facts["faults"],
    ),
    "held": ("Whether a projector holds its lock.", lambda each: each.is_held),
    "stalled": (
        "Whether it makes no progress although there are events to process.",
        lambda each: each.is_stalled,
    ),
    "damaged": (
        "Whether its tables cannot be changed.", lambda each: each.facts["problem"] is not None,
    ),
    "outdated": (
        "Whether its rows were made by another version of its code.",
        lambda each: each.facts["version"] != each.facts["wantedVersion"],
    ),
}  # fmt: skip


PROCESS_GAUGES = {
    "position": "Position up to which it has reacted to all events.",
    "lag_events": "Events that it has not reacted to yet; counted up to 100000.",
    "lag_seconds": "Age of the first event that it has not reacted to.",
    "commands_waiting": "Commands that it issued and that are not done yet.",
    "commands_waiting_seconds": "Age of the oldest of these.",
}


class Metrics:
    """The counters of one API process. Thread-safe."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "annals_http_requests",
            "Requests served.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "annals_http_request_seconds",
            "Time from the head of a request to the end of its response.",
            ["method", "route"],
            buckets=REQUEST_BOUNDS_S,
            registry=self._registry,
        )
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        """By method, route and status: the series, whose look-up by labels takes longer."""
        self._limited = Counter(
            "annals_http_limited",
            "Requests refused with 429, by error code and, for E4020, the quota that was used up.",
            ["code", "quota"],
            registry=self._registry,
        )
        self._append_seconds = Histogram(
            "annals_append_seconds",
            "Time of an append to the log; within a longer transaction, without its commit.",
            buckets=APPEND_BOUNDS_S,
            registry=self._registry,
        )
        self.hints_sent: Callable[[], int] = lambda: 0
        """Returns the number of hints this process has sent."""
        self.hub: Callable[[], Statistics] = dict
        """Returns statistics of the realtime hub."""
        self.pools: dict[str, Callable[[], Statistics]] = {}
        """By connection pool: the function that returns its statistics, under psycopg's names."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the template of its path."""
        counted = self._of_route.get((method, route, status))
        if counted is None:
            counted = self._count_route(method, route, status)
        requests, request_seconds = counted
        requests.inc()
        request_seconds.observe(seconds)

    def _count_route(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        known = method if method in METHODS else OTHER
        counted = (
            self._requests.labels(known, route, str(status)),
            self._request_seconds.labels(known, route),
        )
        if known == method:  # a client may invent any number of others
            self._of_route[method, route, status] = counted
        return counted

    def limited(self, code: str, quota: str) -> None:
        """Count a request that a limit refused with 429."""
        self._limited.labels(code, quota).inc()

    def append(self, seconds: float) -> None:
        """Record the time of an append to the log."""
        self._append_seconds.observe(seconds)

    def exposition(self, snapshot: HealthSnapshot) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return (
            generate_latest(self._registry)
            + generate_latest(_Collector(self._own))
            + generate_latest(_Collector(lambda: families(snapshot)))
        )

    def _own(self) -> Iterator[Metric]:
        hints = "Hints sent to followers that events were appended."
        yield CounterMetricFamily("annals_hints_sent", hints, value=self.hints_sent())
        hub = self.hub()
        for name, (family, help_text) in REALTIME.items():
            yield family(f"annals_realtime_{name}", help_text, value=hub.get(name, 0))
        statistics = {name: get_stats() for name, get_stats in self.pools.items()}
        for name, (key, help_text) in POOL_GAUGES.items():
            gauge = GaugeMetricFamily(f"annals_pool_{name}", help_text, labels=["pool"])
            for pool, values in statistics.items():
                gauge.add_metric([pool], values.get(key, 0))
            yield gauge
        for name, (key, help_text) in POOL_COUNTERS.items():
            counter = CounterMetricFamily(f"annals_pool_{name}", help_text, labels=["pool"])
            for pool, values in statistics.items():
                counter.add_metric([pool], values.get(key, 0))
            yield counter


class _Collector:
    """A collector, as prometheus_client expects it, that calls a function."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._collect()


def families(snapshot: HealthSnapshot) -> Iterator[Metric]:
    """Return the state of the database as metrics."""
    up = "Whether the database answered the last query."
    yield GaugeMetricFamily("annals_database_up", up, value=not snapshot.error)
    if snapshot.error or not snapshot.projections:
        return
    yield GaugeMetricFamily(
        "annals_log_position", "Position up to which the log can be read.", value=snapshot.position
    )
    held_back = snapshot.held_back
    held = "Time for which readers of the log have not seen all committed events."
    yield GaugeMetricFamily("annals_log_held_back_seconds", held, value=held_back.age_s)
    refused = "Whether a session's exclusive lock makes writes fail."
    yield GaugeMetricFamily(
        "annals_log_writes_blocked", refused, value=held_back.locks.exclusive is not None
    )
    lacking = "Protections of the log that differ from those of this version."
    yield GaugeMetricFamily(
        "annals_log_protection_deviations", lacking, value=len(snapshot.deviations)
    )
    yield from _storage(snapshot)
    for name, (help_text, value) in PROJECTION_GAUGES.items():
        gauge = GaugeMetricFamily(f"annals_projection_{name}", help_text, labels=["projection"])
        for each in snapshot.projections:
            gauge.add_metric([each.name], float(value(each)))
        yield gauge
    checked = GaugeMetricFamily(
        "annals_projection_coverage_position",
        "Position up to which its coverage was compared with the log.",
        labels=["projection"],
    )
    for projection, newest, _ in snapshot.checks:
        checked.add_metric([projection], newest)
    yield checked
    yield from _sending(snapshot)
    yield from _rebuilds(snapshot)
    yield from _batches(snapshot)
    yield from _jobs(snapshot)


def _storage(snapshot: HealthSnapshot) -> Iterator[Metric]:
    """Return metrics of the disk, as far as it is known, and of the backups."""
    storage = snapshot.storage
    refused = "Whether the database refuses writes."
    yield GaugeMetricFamily("annals_database_read_only", refused, value=storage.is_read_only)
    age = "Age of the last backup by annals backup; without one, of the first event."
    yield GaugeMetricFamily("annals_backup_age_seconds", age, value=storage.backup_age_s)
    if storage.disk is not None:
        free = "Free bytes on the disk of ANNALS_DISK_FOLDER."
        yield GaugeMetricFamily("annals_disk_free_bytes", free, value=storage.disk.free_bytes)
        size = "Size of the disk of ANNALS_DISK_FOLDER."
        yield GaugeMetricFamily("annals_disk_size_bytes", size, value=storage.disk.size_bytes)


def _sending(snapshot: HealthSnapshot) -> Iterator[Metric]:
    """Return metrics of the process managers and of the gateways' circuit breakers."""
    for column, (name, help_text) in enumerate(PROCESS_GAUGES.items(), start=1):
        gauge = GaugeMetricFamily(f"annals_process_{name}", help_text, labels=["process"])
        for row in snapshot.processes:
            gauge.add_metric([row[0]], float(row[column]))
        yield gauge
    for name, state, failures, open_s in snapshot.breakers:
        now = GaugeMetricFamily(
            f"annals_{name}_gateway_state",
            "1 for the current state of its circuit breaker, otherwise 0.",
            labels=["state"],
        )
        for each in State:
            now.add_metric([each.value], float(each == state))
        yield now
        counted = "Failures that its circuit breaker counts."
        yield GaugeMetricFamily(f"annals_{name}_gateway_failures", counted, value=failures)
        left = "Time until the circuit breaker allows a probe, or gives one up."
        yield GaugeMetricFamily(f"annals_{name}_gateway_wait_seconds", left, value=open_s)


def _rebuilds(snapshot: HealthSnapshot) -> Iterator[Metric]:
    processed = GaugeMetricFamily(
        "annals_rebuild_processed_events",
        "Events that its rebuild has read.",
        labels=["projection"],
    )
    total = GaugeMetricFamily(
        "annals_rebuild_total_events",
        "Events that its rebuild has to read in total.",
        labels=["projection"],
    )
    # If a projection has several rows, all but the newest belong to rebuilds that crashed.
    for projection, (done, all_events) in {row[0]: row[2:] for row in snapshot.rebuilds}.items():
        processed.add_metric([projection], done)
        total.add_metric([projection], all_events)
    yield processed
    yield total


def _batches(snapshot: HealthSnapshot) -> Iterator[Metric]:
    by_events = HistogramMetricFamily(
        "annals_projector_batch_events", "Events in a batch of a projector.", labels=["source"]
    )
    by_seconds = HistogramMetricFamily(
        "annals_projector_batch_seconds", "Time to fold and apply a batch.", labels=["source"]
    )
    for source, events, seconds, events_counts, seconds_counts in snapshot.batches:
        by_events.add_metric([source], _buckets(EVENTS_BOUNDS, events_counts), events)
        by_seconds.add_metric([source], _buckets(SECONDS_BOUNDS, seconds_counts), seconds)
    yield by_events
    yield by_seconds


def _jobs(snapshot: HealthSnapshot) -> Iterator[Metric]:
    jobs = snapshot.jobs
    yield GaugeMetricFamily("annals_jobs_open", "Jobs that have not ended.", value=jobs.open)
    oldest = "Age of the oldest job that has not ended."
    yield GaugeMetricFamily("annals_jobs_oldest_seconds", oldest, value=jobs.oldest_s)
    idle = "Time since a worker last claimed a job that has not ended."
    yield GaugeMetricFamily("annals_jobs_idle_seconds", idle, value=jobs.idle_s)


def _buckets(bounds: Iterable[float], counts: list[int]) -> list[tuple[str, float]]:
    """Return cumulative buckets, as Prometheus defines them."""
    found, below = [], 0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=False):
        below += count
        found.append((bound, float(below)))
    return found


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the template of the path of a routed request."""
    path = getattr(scope.get("route"), "path_format", None)
    return path if isinstance(path, str) else OTHER
