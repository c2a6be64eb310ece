"""Health, readiness, metrics, logs and traces report a fault soon and with its reason."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from eventsourcing.persistence import OperationalError
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.http.middleware import RequestContext
from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection, follow_connection, write_pool
from eventlog.locks import WRITER_LOCK
from eventlog.reading import RecordedEvent
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.ledger.checks import CheckResult, check
from projections.engine.live.runner import Batch, ProjectionEngine
from projections.engine.registry import PROJECTIONS
from runtime import health, health_snapshot
from runtime.health import SNAPSHOT_TTL_S, is_stalled
from runtime.settings import REPOSITORY, Settings
from runtime.tracing import SpanExporter, open_tracing
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, ApiWorkspace
from tests.support.databases import Urls, fresh_database
from tests.support.keys import issue_first_key
from tests.support.processes import Projector, api_without_projector, running_projector
from tests.support.waiting import wait_until, wait_until_projected

pytestmark = pytest.mark.long(seconds=50)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ACCOUNT = {"company": "Acme", "type": "customer"}
RED_WITHIN_S = 10.0
ALARM_WITHIN_S = 20.0
STALE_S = SNAPSHOT_TTL_S + 0.1
"""Seconds after which health has read the state again."""


@dataclass
class Stack:
    """The API and a projector as two servers on one database."""

    urls: Urls
    client: httpx.Client
    projector: Projector
    commands: EntityCommands
    database: Connection
    scope: Scope = field(default_factory=lambda: Scope(uuid4()))

    def write(self, company: str = "Acme") -> int:
        """Create an account for the projector to process, and return its position."""
        return write(self.commands, self.scope, company)

    def wait_until_projected(self, position: int) -> None:
        """Wait until the projector has reached the position."""
        wait_until_projected(self.database, position)

    def status(self) -> int:
        """Return the HTTP status of the health check."""
        return self.client.get("/healthz").status_code

    def reasons(self, name: str = "accounts") -> str:
        """Return the reasons that health reports for a projection."""
        found = self.client.get("/healthz").json()["projections"]
        return "; ".join(next(each["reasons"] for each in found if each["name"] == name))


@contextmanager
def running(urls: Urls, output: Path) -> Iterator[Stack]:
    """Run the API and the projector while the block lasts."""
    with (
        running_projector(urls, output) as projector,
        api_without_projector(urls) as client,
        write_pool(urls.app) as pool,
        psycopg.connect(urls.superuser, autocommit=True) as database,
    ):
        commands = EntityCommands(EventLog(pool), clock=lambda: datetime.now(UTC), new_id=uuid4)
        yield Stack(urls, client, projector, commands, database)


@pytest.fixture(scope="module")
def shared(
    cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack shared by tests that restore its state."""
    output = tmp_path_factory.mktemp("operations") / "projector.log"
    with fresh_database(cluster, template) as urls, running(urls, output) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    """The shared stack, once its health is ok."""
    wait_until(lambda: shared.client.get("/healthz").json().get("status") == "ok", "health is ok")
    return shared


@pytest.fixture
def broken_stack(urls: Urls, tmp_path: Path) -> Iterator[Stack]:
    """A stack for one test, which may break it."""
    with running(urls, tmp_path / "projector.log") as stack:
        yield stack


def write(commands: EntityCommands, scope: Scope, company: str = "Acme") -> int:
    """Create an account and return its position."""
    return commands.create(scope, Account, {"company": company, "type": "customer"}).position


# Health


def test_health_lists_each_projection(stack: Stack) -> None:
    answer = stack.client.get("/healthz").json()
    assert answer["status"] == "ok"
    assert [each["name"] for each in answer["projections"]] == sorted(PROJECTIONS)
    assert {each["status"] for each in answer["projections"]} == {"ok"}


@pytest.mark.parametrize(
    ("lag_events", "lag_s", "idle_s", "expected"),
    [
        (0, 0.0, 3600.0, False),  # nothing to do
        (1, 0.1, 3600.0, False),  # something to do since 0.1 s ago
        (100_000, 900.0, 0.3, False),  # far behind, and moving: an import, a catch-up
        (1, 7.0, 7.0, True),
        (100_000, 900.0, 7.0, True),
    ],
)
def test_projection_is_stalled_only_if_it_lags_and_is_idle(
    lag_events: int, lag_s: float, idle_s: float, expected: bool
) -> None:
    facts = {"lagEvents": lag_events, "lagSeconds": lag_s, "idleSeconds": idle_s}
    assert is_stalled(facts, 6.0) is expected


def test_health_is_red_while_the_projector_is_stopped(stack: Stack) -> None:
    stack.wait_until_projected(stack.write())
    stack.projector.signal(signal.SIGSTOP)
    try:
        assert stack.status() == 200
        stack.write()
        assert wait_until(lambda: stack.status() == 503, "health is red") < RED_WITHIN_S
        answer = stack.client.get("/healthz").json()
        assert answer["code"] == "E3006"
        assert "accounts: no progress for" in answer["detail"]
        assert "its projector holds the lock but does nothing" in stack.reasons()
    finally:
        stack.projector.signal(signal.SIGCONT)
    wait_until(lambda: stack.status() == 200, "health is green")


def test_health_is_red_after_the_projector_was_killed(broken_stack: Stack) -> None:
    broken_stack.projector.kill()
    wait_until(
        lambda: broken_stack.reasons() == "no projector works on it",
        "health names the missing projector",
    )
    assert broken_stack.client.get("/healthz").json()["status"] == "degraded"
    broken_stack.write()
    assert wait_until(lambda: broken_stack.status() == 503, "health is red") < RED_WITHIN_S
    assert broken_stack.reasons().endswith("no projector works on it")


def test_health_is_red_while_the_projector_waits_for_a_lock(stack: Stack) -> None:
    with psycopg.connect(stack.urls.superuser) as other:
        other.execute("LOCK TABLE read.accounts IN ACCESS EXCLUSIVE MODE")
        stack.write()
        assert wait_until(lambda: stack.status() == 503, "health is red") < RED_WITHIN_S
        pid = other.info.backend_pid
        assert f"its projector waits for a lock of server process {pid}" in stack.reasons()
    wait_until(lambda: stack.status() == 200, "health is green")


def test_health_is_red_if_checkpoints_cannot_be_read(stack: Stack) -> None:
    with psycopg.connect(stack.urls.superuser) as other:
        other.execute("LOCK TABLE projections IN ACCESS EXCLUSIVE MODE")
        assert wait_until(lambda: stack.status() == 503, "health is red") < RED_WITHIN_S
        assert stack.client.get("/healthz").json()["code"] == "E3001"
        assert stack.client.get("/livez").status_code == 200
        assert b"annals_database_up 0.0" in stack.client.get("/metrics").content
    wait_until(lambda: stack.status() == 200, "health is green")


def test_health_answers_although_its_database_connection_is_frozen(stack: Stack) -> None:
    pids: list[int] = []

    def has_one_connection() -> bool:
        rows = stack.database.execute(
            """SELECT pid FROM pg_stat_activity
                WHERE application_name = 'annals-health' AND datname = current_database()"""
        ).fetchall()
        pids[:] = [pid for (pid,) in rows]
        return len(pids) == 1

    # A connection that the monitor has given up may not have ended yet.
    wait_until(has_one_connection, "the health monitor has one connection")
    (pid,) = pids
    os.kill(pid, signal.SIGSTOP)
    try:
        assert wait_until(lambda: stack.status() == 503, "health is red") < RED_WITHIN_S
        assert stack.client.get("/healthz").json()["code"] == "E3001"
        wait_until(lambda: stack.status() == 200, "health is green")  # over a new connection
    finally:
        os.kill(pid, signal.SIGCONT)


def test_parked_entities_degrade_health_only(stack: Stack) -> None:
    stack.database.execute(
        """INSERT INTO projection_parked
                  (projection, workspace_id, entity_id, position, events, error)
           VALUES ('notes', gen_random_uuid(), gen_random_uuid(), 1, 1, 'secret')"""
    )
    try:
        wait_until(lambda: stack.reasons("notes") != "", "health has read the state again")
        answer = stack.client.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert stack.reasons("notes") == "1 entities are parked"
        assert "secret" not in answer.text
    finally:
        stack.database.execute("DELETE FROM projection_parked")


TAKE_ZERO = f"SELECT pg_advisory_lock_shared({WRITER_LOCK}::bigint << 56)"
FREE_ZERO = f"SELECT pg_advisory_unlock_shared({WRITER_LOCK}::bigint << 56)"
LOCK_LAST = f"""SELECT pg_advisory_lock(({WRITER_LOCK}::bigint << 56)
                                        | pg_sequence_last_value('public.events_position_seq'))"""
ROLES = ["app", "sender", "projector", "superuser"]
"""Any role that may connect can take the locks of announcements."""


def metric(stack: Stack, name: str) -> float:
    (value,) = re.findall(rf"^{name} (\S+)$", stack.client.get("/metrics").text, re.MULTILINE)
    return float(value)


@pytest.mark.parametrize("role", ROLES)
def test_reader_held_back_by_a_lock_is_seen(
    role: str, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_snapshot, "WITHHELD_MAX_S", 0.5)
    stack.wait_until_projected(stack.write())
    assert stack.status() == 200
    with psycopg.connect(getattr(stack.urls, role), autocommit=True) as holder:
        holder.execute(TAKE_ZERO)
        pid = holder.info.backend_pid
        wait_until(lambda: stack.status() == 503, "health is red")
        detail = stack.client.get("/healthz").json()["detail"]
        assert f"now by server process {pid} at position 0: end it" in detail
        assert metric(stack, "annals_log_held_back_seconds") > 0.5
        stack.database.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: stack.status() == 200, "health is green")


def test_sessions_that_alternate_with_the_lock_are_seen(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No session holds the lock for long, but one of them holds it always."""
    monkeypatch.setattr(health, "SNAPSHOT_TTL_S", 0.0)
    monkeypatch.setattr(health_snapshot, "WITHHELD_MAX_S", 1.0)
    stack.wait_until_projected(stack.write())
    assert stack.status() == 200
    with (
        psycopg.connect(stack.urls.sender, autocommit=True) as holder,
        psycopg.connect(stack.urls.sender, autocommit=True) as other,
    ):
        pids = {holder.info.backend_pid, other.info.backend_pid}
        holder.execute(TAKE_ZERO)
        written = stack.write()
        turns = [(holder, other), (other, holder)]

        def alternate() -> bool:
            leaving, taking = turns[0]
            taking.execute(TAKE_ZERO)
            leaving.execute(FREE_ZERO)
            turns.reverse()
            return stack.status() == 503

        wait_until(alternate, "health is red")
        detail = stack.client.get("/healthz").json()["detail"]
        (pid,) = re.findall(r"now by server process (\d+) at position 0", detail)
        assert int(pid) in pids
        assert metric(stack, "annals_log_held_back_seconds") > 1.0
    wait_until(lambda: stack.status() == 200, "health is green")
    stack.wait_until_projected(written)


@pytest.mark.parametrize("role", ROLES)
def test_exclusive_lock_that_makes_writes_fail_is_seen(role: str, stack: Stack) -> None:
    stack.wait_until_projected(stack.write())
    with psycopg.connect(getattr(stack.urls, role), autocommit=True) as holder:
        holder.execute(LOCK_LAST)
        with pytest.raises(OperationalError):
            stack.write()
        wait_until(lambda: stack.status() == 503, "health is red")
        detail = stack.client.get("/healthz").json()["detail"]
        assert f"server process {holder.info.backend_pid} has, or waits for, an exclusive" in detail
        assert metric(stack, "annals_log_writes_blocked") == 1
    wait_until(lambda: stack.status() == 200, "health is green")
    assert metric(stack, "annals_log_writes_blocked") == 0
    stack.wait_until_projected(stack.write())


def test_exclusive_lock_that_is_waited_for_is_seen(stack: Stack) -> None:
    """A writer's attempt fails also while another session waits in front of it."""
    stack.wait_until_projected(stack.write())
    shared_lock = LOCK_LAST.replace("pg_advisory_lock(", "pg_advisory_lock_shared(")
    with (
        psycopg.connect(stack.urls.sender, autocommit=True) as holder,
        psycopg.connect(stack.urls.sender, autocommit=True) as waiter,
        ThreadPoolExecutor(1) as thread,
    ):
        holder.execute(shared_lock)
        waiting = thread.submit(waiter.execute, LOCK_LAST)
        wait_until(lambda: stack.status() == 503, "health is red")
        detail = stack.client.get("/healthz").json()["detail"]
        assert f"server process {waiter.info.backend_pid} has, or waits for, an exclusive" in detail
        holder.execute("SELECT pg_advisory_unlock_all()")
        waiting.result()
    wait_until(lambda: stack.status() == 200, "health is green")


def test_writer_at_the_end_of_the_log_holds_no_reader_back(stack: Stack) -> None:
    taken = f"SELECT pg_advisory_lock_shared(({WRITER_LOCK}::bigint << 56) | %s)"
    last = stack.database.execute("SELECT max(position) FROM events").fetchone()
    assert last is not None
    with psycopg.connect(stack.urls.app, autocommit=True) as holder:
        holder.execute(taken, last)
        assert "annals_log_held_back_seconds 0.0" in stack.client.get("/metrics").text


# Readiness


@pytest.mark.parametrize(
    ("tampering", "correction", "named"),
    [
        (
            "ALTER TABLE events NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE events FORCE ROW LEVEL SECURITY",
            "events: owner annals_owner",
        ),
        (
            "ALTER FUNCTION read.search_accounts SET search_path = read, public",
            "ALTER FUNCTION read.search_accounts SET search_path = read, public, pg_temp",
            "another function read.search_accounts",
        ),
    ],
)
def test_api_is_not_ready_and_red_without_a_protection(
    tampering: str, correction: str, named: str, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROTECTIONS_INTERVAL_S", 0.0)
    assert stack.client.get("/readyz").status_code == 200
    stack.database.execute(tampering.encode())
    try:
        wait_until(lambda: stack.client.get("/readyz").status_code == 503, "it is not ready")
        refused = stack.client.get("/readyz").json()
        assert refused["code"] == "E3007"
        assert any(named in each for each in refused["deviations"])
        assert stack.status() == 503
    finally:
        stack.database.execute(correction.encode())
    wait_until(lambda: stack.client.get("/readyz").status_code == 200, "it is ready")


def test_protections_are_not_judged_by_an_earlier_version(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROTECTIONS_INTERVAL_S", 0.0)
    monkeypatch.setattr(health, "SNAPSHOT_TTL_S", 0.0)
    stack.database.execute(
        "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('x', '9999_later')"
    )
    stack.database.execute("CREATE POLICY later ON events FOR SELECT TO annals_app USING (false)")
    try:
        for _ in range(3):
            assert stack.client.get("/readyz").status_code == 200
    finally:
        stack.database.execute("DROP POLICY later ON events")
        stack.database.execute("DELETE FROM _yoyo_migration WHERE migration_hash = 'x'")


def test_api_is_not_ready_without_a_migration(stack: Stack) -> None:
    client, name = stack.client, "0004_operations"
    assert client.get("/readyz").status_code == 200
    move = "UPDATE _yoyo_migration SET migration_id = %s WHERE migration_id = %s"
    stack.database.execute(move, ("moved", name))
    try:
        wait_until(lambda: client.get("/readyz").status_code == 503, "the API is not ready")
        answer = client.get("/readyz")
        assert answer.json()["code"] == "E3007"
        assert answer.json()["missing"] == [f"migration {name}"]
    finally:
        stack.database.execute(move, (name, "moved"))


def test_api_is_not_ready_while_projections_lag(
    urls: Urls, commands: EntityCommands, scope: Scope, engine: ProjectionEngine
) -> None:
    with api_without_projector(urls, ready_lag_max_s=0.5) as client:
        assert client.get("/readyz").status_code == 200
        write(commands, scope)
        wait_until(lambda: client.get("/readyz").status_code == 503, "the API is not ready")
        answer = client.get("/readyz").json()
        assert answer["code"] == "E3007"
        assert "accounts" in {each["name"] for each in answer["projections"]}
        engine.catch_up()
        wait_until(lambda: client.get("/readyz").status_code == 200, "the API is ready")


# The alarm


def alter(database: Connection, position: int) -> None:
    """Change a recorded event as a superuser who disables the guarding trigger."""
    database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
    database.execute(
        "UPDATE events SET data = (data::text || ' ')::json WHERE position = %s", (position,)
    )
    database.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed")


def test_altered_history_raises_an_alarm(broken_stack: Stack) -> None:
    position = [broken_stack.write() for _ in range(3)][1]
    broken_stack.wait_until_projected(position + 1)
    alter(broken_stack.database, position)
    assert wait_until(lambda: broken_stack.status() == 503, "health is red") < ALARM_WITHIN_S
    assert broken_stack.reasons() == "its coverage differs from the log in 1 ranges"
    faults = series(broken_stack.client, "annals_projection_coverage_faults")
    assert {labels["projection"] for labels, value in faults if value == 1} == set(PROJECTIONS)
    errors = [line for line in broken_stack.projector.lines() if line["level"] == "error"]
    assert {line["fault"] for line in errors} == {"altered"}
    assert {line["position"] for line in errors} == {position}
    assert {line["projection"] for line in errors} == set(PROJECTIONS)
    assert broken_stack.client.get("/readyz").status_code == 200, (
        "requests are served in spite of the alarm"
    )


def test_coverage_checks_compare_all_of_history_in_chunks(
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    engine: ProjectionEngine,
    urls: Urls,
) -> None:
    written = [write(commands, scope) for _ in range(5)]
    database.execute("SELECT setval('events_position_seq', 2500)")
    written += [write(commands, scope) for _ in range(5)]
    engine.catch_up()

    def run_check(round_interval_s: float = 3_600) -> CheckResult:
        with follow_connection(urls.projector, application_name="test") as connection:
            return check(connection, chunk=1_000, round_interval_s=round_interval_s)

    for _ in range(4):
        assert run_check() == CheckResult([], [])
    alter(database, written[0])
    assert run_check().new == [], "the round has ended, and the altered event is not new"
    found = [gap for _ in range(3) for gap in run_check(0).new]
    assert {(gap.fault, gap.position) for gap in found} == {("altered", written[0])}
    assert {gap.projection for gap in found} == set(PROJECTIONS)
    alter(database, written[-1])
    assert {gap.position for gap in run_check().new} == {written[-1]}, (
        "new events are always compared"
    )
    counted = database.execute("SELECT count(*) FROM projection_faults").fetchone()
    assert counted == (2 * len(PROJECTIONS),)
    database.execute("UPDATE projections SET epoch = epoch + 1 WHERE name = 'notes'")
    run_check()
    remaining = database.execute(
        "SELECT count(*) FROM projection_faults WHERE projection = 'notes'"
    )
    assert remaining.fetchone() == (2,), (
        "found again, because the log differs from the events consumed"
    )


def test_fault_is_deleted_once_the_difference_is_gone(
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    engine: ProjectionEngine,
    urls: Urls,
) -> None:
    write(commands, scope)
    engine.catch_up()
    database.execute("UPDATE projection_coverage SET n = n + 1 WHERE projection = 'notes'")
    with follow_connection(urls.projector, application_name="test") as connection:
        assert [gap.projection for gap in check(connection).new] == ["notes"]
        database.execute("UPDATE projection_coverage SET n = n - 1 WHERE projection = 'notes'")
        assert [gap.projection for gap in check(connection).gone] == ["notes"]
    assert database.execute("SELECT count(*) FROM projection_faults").fetchone() == (0,)


# Metrics


def scrape_metrics(client: httpx.Client) -> dict[str, Metric]:
    """Return all metrics by name; assert that each occurs once."""
    found = list(text_string_to_metric_families(client.get("/metrics").text))
    names = [each.name for each in found]
    assert len(names) == len(set(names))
    return {each.name: each for each in found}


def series(client: httpx.Client, name: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and value of each sample of a metric."""
    return [(each.labels, each.value) for each in scrape_metrics(client)[name].samples]


def samples(client: httpx.Client, name: str) -> dict[str, float]:
    """Return the samples of a metric by name and labels."""
    metric = scrape_metrics(client).get(name.removesuffix("_total"))
    return {
        f"{each.name}{sorted(each.labels.values())}": each.value
        for each in (metric.samples if metric else ())
    }


def test_metrics_describe_the_log_projections_and_batches(stack: Stack) -> None:
    def count_batched_events() -> float:
        found = samples(stack.client, "annals_projector_batch_events")
        return found.get("annals_projector_batch_events_sum['log']", 0)

    position = [stack.write() for _ in range(20)][-1]
    stack.wait_until_projected(position)
    count = stack.database.execute("SELECT count(*) FROM events").fetchone()
    wait_until(lambda: count == (count_batched_events(),), "the metric counts every event")
    found = scrape_metrics(stack.client)
    assert found["annals_log_position"].samples[0].value == position
    for name in ("position", "lag_events", "lag_seconds", "parked_entities", "stalled", "held"):
        metric = found[f"annals_projection_{name}"]
        assert {each.labels["projection"] for each in metric.samples} == set(PROJECTIONS)
    assert {each.value for each in found["annals_projection_held"].samples} == {1.0}
    pools = {each.labels["pool"] for each in found["annals_pool_size"].samples}
    assert pools == {"read", "write", "shared-write", "history", "export"}
    assert found["annals_database_up"].samples[0].value == 1
    assert {"annals_append_seconds", "annals_hints_sent"} <= set(found)


def test_appends_and_hints_are_counted(api: Api, api_workspace: ApiWorkspace) -> None:
    def read_counter(name: str) -> float:
        return next(value for labels, value in series(api.client(), name) if not labels)

    before = read_counter("annals_hints_sent")
    api_workspace.account()
    wait_until(lambda: read_counter("annals_hints_sent") > before, "the hint is counted")
    appends = samples(api.client(), "annals_append_seconds")
    assert appends["annals_append_seconds_count[]"] >= 1


def test_metrics_have_routes_as_labels_but_no_ids(stack: Stack) -> None:
    client = stack.client
    client.get("/api/accounts/0199c0de-0000-7000-8000-000000000001")
    client.get("/no/such/place/0199c0de-0000-7000-8000-000000000001")
    client.request("PROPFIND", "/livez")
    page = client.get("/metrics").text
    assert "0199c0de" not in page
    assert "PROPFIND" not in page
    counted = series(client, "annals_http_requests")
    found = {
        (labels["method"], labels["route"], labels["status"])
        for labels, _ in counted
        if "status" in labels
    }
    assert ("GET", "/api/accounts/{id}", "401") in found
    assert ("GET", "other", "404") in found
    assert {method for method, _, _ in found} == {"GET", "other"}


@pytest.mark.parametrize(
    ("token", "headers", "expected"),
    [
        (None, {}, 200),
        (None, {"X-Forwarded-For": "203.0.113.7"}, 403),
        ("swordfish", {}, 403),
        ("swordfish", {"Authorization": "Bearer trout"}, 403),
        ("swordfish", {"Authorization": "Bearer swordfish", "X-Forwarded-For": "::1"}, 200),
    ],
)
def test_metrics_need_the_token_or_a_local_client(
    urls: Urls, token: str | None, headers: dict[str, str], expected: int
) -> None:
    with api_without_projector(urls, metrics_token=token) as client:
        answer = client.get("/metrics", headers=headers)
    assert answer.status_code == expected
    assert expected == 200 or answer.json()["code"] == "E1009"


# Logs


def test_projector_logs_json_with_the_positions_reached(
    urls: Urls, tmp_path: Path, commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    with running_projector(urls, tmp_path / "projector.log") as projector:
        position = [write(commands, scope) for _ in range(5)][-1]
        wait_until_projected(database, position)
        projector.stop()
        assert projector.process.returncode == 0
    (line,) = [line for line in projector.lines() if line["message"] == "projected"]
    assert line["service"] == "projector"
    assert line["level"] == "info"
    assert line["events"] == 5
    assert line["positions"] == dict.fromkeys(PROJECTIONS, position)


def test_log_line_of_a_write_has_its_position(
    api_workspace: ApiWorkspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    middleware = api_workspace.api.app.middleware_stack
    while not isinstance(middleware, RequestContext):
        middleware = getattr(middleware, "app")  # noqa: B009 - every middleware has this attribute
    monkeypatch.setattr(middleware, "_access_log", True)
    caplog.set_level(logging.INFO, "annals.request")
    answer = api_workspace.make("accounts", company="Acme", type="customer")
    request_id = answer.headers["X-Request-Id"]

    def facts() -> list[dict[str, Any]]:
        return [each.facts for each in caplog.records if hasattr(each, "facts")]

    def positions() -> list[int]:
        return [each["position"] for each in facts() if "position" in each]

    wait_until(
        lambda: positions() == [int(answer.headers["Annals-Position"])],
        "the line with the position is logged",
    )
    assert request_id


# Traces


@pytest.fixture
def traced(urls: Urls) -> Iterator[tuple[httpx.Client, SpanExporter, InMemorySpanExporter]]:
    """A client of an API that records traces, its tracing, and the exporter that keeps them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = SpanExporter(provider)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.open_tracing", lambda settings, service: tracing)
        with api_without_projector(urls) as client:
            yield client, tracing, exporter


def test_trace_leads_from_the_request_to_the_projection(
    traced: tuple[httpx.Client, SpanExporter, InMemorySpanExporter],
    urls: Urls,
    database: Connection,
) -> None:
    client, tracing, exporter = traced

    def observe(batch: Batch, events: Sequence[RecordedEvent]) -> None:
        tracing.batch("log", events, batch.seconds)

    engine = ProjectionEngine(urls.projector, PROJECTIONS.values(), observe=observe)
    key = issue_first_key(urls.owner, uuid4())
    engine.catch_up()
    assert exporter.get_finished_spans() == (), "no request asked for a trace"
    headers = {"Authorization": f"Bearer {key.token}", "traceparent": PARENT}
    written = client.post("/api/accounts", json=ACCOUNT, headers=headers)
    assert written.status_code == 201, written.text
    metadata = database.execute("SELECT metadata FROM events ORDER BY position DESC LIMIT 1")
    traceparent = metadata.fetchall()[0][0]["traceparent"]
    assert traceparent.split("-")[1] == PARENT.split("-")[1]
    engine.catch_up()
    request, batch = exporter.get_finished_spans()
    assert request.attributes is not None
    assert request.parent is not None
    assert batch.attributes is not None
    assert request.name == "POST /api/accounts"
    assert request.attributes["http.response.status_code"] == 201
    assert request.parent.span_id == int(PARENT.split("-")[2], 16)
    assert batch.name == "project"
    assert batch.attributes["annals.last_position"] == int(written.headers["Annals-Position"])
    assert [link.context.span_id for link in batch.links] == [request.context.span_id]
    assert batch.context.trace_id == request.context.trace_id, (
        "a batch with one trace is part of it"
    )
    for _ in range(2):
        client.post("/api/accounts", json=ACCOUNT, headers=headers | {"traceparent": "nonsense"})
    engine.catch_up()
    first, second, both = exporter.get_finished_spans()[2:]
    assert both.parent is None
    assert {each.context.trace_id for each in both.links} == {
        first.context.trace_id,
        second.context.trace_id,
    }


def test_nothing_is_traced_or_imported_without_an_endpoint() -> None:
    assert open_tracing(Settings(), "annals-api") is None
    code = (
        "import sys; import server.processes.projector;"
        " assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_tracing_is_opened_with_an_endpoint() -> None:
    tracing = open_tracing(Settings(otel_endpoint="http://127.0.0.1:1"), "annals-api")
    assert tracing is not None
    tracing.close()
