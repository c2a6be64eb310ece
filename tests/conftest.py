"""Fixtures: one PostgreSQL per test process, a freshly migrated database and log per test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection, write_pool
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, ApiWorkspace, openapi_generated_once, running_api
from tests.support.databases import Urls, fresh_database, make_template
from tests.support.postgres_server import fast_cluster
from tests.support.sms_harness import SmsHarness, open_sms_harness
from tests.support.twilio_server import FakeTwilio, twilio_server

if TYPE_CHECKING:
    from tests.support.kafka_broker import RunningKafka
    from tests.support.kafka_harness import KafkaHarness


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that the processes that share the files end together."""

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("long")
        return float(mark.kwargs["seconds"]) if mark else 0.0

    items.sort(key=seconds, reverse=True)


@pytest.fixture(scope="session", autouse=True)
def _openapi() -> Iterator[None]:
    """Generate the OpenAPI document once in each test process."""
    with openapi_generated_once():
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL server of this test process."""
    with fast_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def kafka() -> Iterator[RunningKafka]:
    """The Kafka broker of this test process."""
    from tests.support.kafka_broker import session_kafka  # few tests need the Kafka client

    yield from session_kafka()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """The name of the template database that each test copies."""
    return make_template(cluster)


@pytest.fixture
def urls(cluster: Cluster, template: str) -> Iterator[Urls]:
    """The URLs of a database for this test, migrated and with its read tables."""
    with fresh_database(cluster, template) as urls:
        yield urls


@pytest.fixture(scope="session")
def api(cluster: Cluster, template: str) -> Iterator[Api]:
    """An API with a projector, a worker and a database, shared by all API tests of the session."""
    with (
        fresh_database(cluster, template) as urls,
        running_api(urls.owner, urls.app, urls.projector) as running,
    ):
        yield running


@pytest.fixture
def api_workspace(api: Api) -> ApiWorkspace:
    """A new workspace in the shared API."""
    return api.new_workspace()


@pytest.fixture
def log(urls: Urls) -> Iterator[EventLog]:
    """The event log of the test's database, opened with the API's role."""
    with write_pool(urls.app) as pool:
        yield EventLog(pool)


@pytest.fixture
def workspace() -> UUID:
    """The id of a new workspace."""
    return uuid4()


@pytest.fixture
def scope(workspace: UUID) -> Scope:
    """The scope of a command that the member Ada sends in the workspace."""
    return Scope(workspace, Actor("member", "ada", "Ada"), command="test", command_id="c-1")


@pytest.fixture
def commands(log: EventLog) -> EntityCommands:
    """The commands on entities, with the real clock."""
    return EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)


@pytest.fixture
def engine(urls: Urls) -> ProjectionEngine:
    """An engine of all projections; `catch_up()` brings them to the end of the log."""
    return ProjectionEngine(urls.projector, PROJECTIONS.values())


@pytest.fixture
def database(urls: Urls) -> Iterator[Connection]:
    """A superuser's connection to the test's database."""
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        yield connection


@pytest.fixture
def accounts(commands: EntityCommands, scope: Scope) -> list[Account]:
    """Create three accounts with one contact each."""
    created = []
    for name in ("Acme", "Bluth", "Cyberdyne"):
        outcome = commands.create(scope, Account, {"company": name, "type": "customer"})
        assert isinstance(outcome.entity, Account)
        commands.create(scope, Contact, {"name": f"Ada of {name}"}, account_id=outcome.entity.id)
        created.append(outcome.entity)
    return created


@pytest.fixture
def sms_harness(urls: Urls) -> Iterator[SmsHarness]:
    """A workspace whose text messages a test sends step by step."""
    with open_sms_harness(urls) as harness:
        yield harness


@pytest.fixture
def twilio() -> Iterator[FakeTwilio]:
    """A fake server of Twilio's API."""
    with twilio_server() as server:
        yield server


@pytest.fixture
def kafka_harness(kafka: RunningKafka, urls: Urls) -> KafkaHarness:
    """An empty log and the Kafka topic to which it is published."""
    from tests.support.kafka_harness import KafkaHarness  # few tests need the Kafka client

    return KafkaHarness.create(kafka, urls)
