"""What tests share: one real PostgreSQL, a fresh migrated database for each test, a log on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from eventlog.connections import Connection, write_pool
from eventlog.migrations import migrate
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from projections.engine.install import install
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from server.postgres.embedded import Cluster, prepare_database
from tests.support.api_server import Api, ApiWorkspace, running_api
from tests.support.postgres_server import session_cluster
from tests.support.twilio_server import FakeTwilio, twilio_server

if TYPE_CHECKING:
    from tests.support.kafka_broker import RunningKafka
    from tests.support.kafka_harness import KafkaHarness
    from tests.support.sms_harness import SmsHarness

TEMPLATE = "annals_template"
_numbers = count(1)


@dataclass(frozen=True)
class Urls:
    """URLs of one database, by the role that connects."""

    owner: str
    app: str
    projector: str
    superuser: str
    sender: str = ""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server of this test run."""
    with session_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def kafka() -> Iterator[RunningKafka]:
    """A Kafka broker of this test run."""
    from tests.support.kafka_broker import (
        session_kafka,  # not above: few tests need a client of Kafka
    )

    yield from session_kafka()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """A migrated database from which those of the tests are copied."""
    urls = prepare_database(cluster, TEMPLATE)
    migrate(urls.owner)
    install(urls.projector, table_definitions())
    return TEMPLATE


@contextmanager
def fresh_database(cluster: Cluster, template: str) -> Iterator[Urls]:
    """A database as migrations make it, for as long as the block lasts."""
    name = f"test_{next(_numbers)}"
    made = prepare_database(cluster, name, template=template)
    yield Urls(made.owner, made.app, made.projector, cluster.url("postgres", name), made.sender)
    with psycopg.connect(cluster.url("postgres", "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def urls(cluster: Cluster, template: str) -> Iterator[Urls]:
    """A database of this test alone, migrated and with its read tables."""
    with fresh_database(cluster, template) as urls:
        yield urls


@pytest.fixture(scope="session")
def api(cluster: Cluster, template: str) -> Iterator[Api]:
    """The API on a socket, with a projector and a database that API tests share."""
    with (
        fresh_database(cluster, template) as urls,
        running_api(urls.owner, urls.app, urls.projector) as running,
    ):
        yield running


@pytest.fixture
def api_workspace(api: Api) -> ApiWorkspace:
    """A workspace of this test alone, behind the shared API."""
    return api.new_workspace()


@pytest.fixture
def log(urls: Urls) -> Iterator[EventLog]:
    """The log of the test's database, under the role of the API."""
    with write_pool(urls.app) as pool:
        yield EventLog(pool)


@pytest.fixture
def workspace() -> UUID:
    """A workspace of its own."""
    return uuid4()


@pytest.fixture
def scope(workspace: UUID) -> Scope:
    """Ada acts in the workspace."""
    return Scope(workspace, Actor("member", "ada", "Ada"), command="test", command_id="c-1")


@pytest.fixture
def commands(log: EventLog) -> EntityCommands:
    """The commands on entities, with the real clock."""
    return EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)


@pytest.fixture
def engine(urls: Urls) -> ProjectionEngine:
    """All projections; `catch_up()` brings them to the end of the log."""
    return ProjectionEngine(urls.projector, PROJECTIONS.values())


@pytest.fixture
def database(urls: Urls) -> Iterator[Connection]:
    """A superuser's connection, to look at what there is."""
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        yield connection


@pytest.fixture
def accounts(commands: EntityCommands, scope: Scope) -> list[Account]:
    """Three accounts, and a contact at each."""
    made = []
    for name in ("Acme", "Bluth", "Cyberdyne"):
        outcome = commands.create(scope, Account, {"company": name, "type": "customer"})
        assert isinstance(outcome.entity, Account)
        commands.create(scope, Contact, {"name": f"Ada of {name}"}, account_id=outcome.entity.id)
        made.append(outcome.entity)
    return made


@pytest.fixture
def sms_harness(urls: Urls) -> Iterator[SmsHarness]:
    """A house whose text messages the tests watch being sent."""
    from tests.support.sms_harness import open_sms_harness  # not above: it imports from here

    with open_sms_harness(urls) as made:
        yield made


@pytest.fixture
def twilio() -> Iterator[FakeTwilio]:
    """A gateway that speaks as Twilio does."""
    with twilio_server() as made:
        yield made


@pytest.fixture
def kafka_harness(kafka: RunningKafka, urls: Urls) -> KafkaHarness:
    """A log without events, and its topic."""
    from tests.support.kafka_harness import (
        KafkaHarness,
    )  # not above: few tests need a client of Kafka

    return KafkaHarness.create(kafka, urls)
