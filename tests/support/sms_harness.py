"""Helpers for tests of text messages: a log, commands, process managers, and a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import ConnectionPool

from commands.delivery.gateway import OutgoingSms, SmsGateway
from commands.delivery.inbox import handle_next_batch, register_processes
from commands.delivery.outbox import Outbox, command_handlers
from commands.delivery.sending import RetryPolicy, SmsDelivery
from commands.entities import EntityCommands
from commands.processes import PROCESSES
from commands.sms import SmsCommands, SmsLimits
from domain.lead import Lead
from domain.shared.breaker import Limits
from domain.sms import Sms
from eventlog.connections import Connection, follow_connection, write_pool
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from runtime.gateways.twilio import Twilio, TwilioGateway
from tests.support.databases import Urls
from tests.support.twilio_server import ACCOUNT, NUMBER, TOKEN, FakeTwilio

PHONE = "+44 20 7946 0000"
QUICK = RetryPolicy(
    backoff_first_s=0.001, backoff_max_s=0.004, jitter_s=0.001, breaker=Limits(failures=1_000)
)
"""Retries without noticeable pauses, and opens no circuit breaker."""
GATEWAY_TIMEOUT_S = 1.0
STEPS_MAX = 500

COMMANDS = """
SELECT name, state, attempts, error FROM process_commands ORDER BY created_at, id
"""


@dataclass
class CountingGateway:
    """Accepts every message and keeps it."""

    taken: list[OutgoingSms] = field(default_factory=list)

    def send(self, sms: OutgoingSms) -> str:
        """Accept a message; return its gateway id."""
        self.taken.append(sms)
        return f"count-{len(self.taken)}"


@dataclass
class SmsHarness:
    """One workspace of one log, and all that sends from it, run step by step."""

    log: EventLog
    """The log under the API's role."""
    sender_log: EventLog
    """The log under the senders' role."""
    pool: ConnectionPool[Connection]
    """Connections of the senders' role."""
    follower: Connection
    database: Connection
    """A superuser's connection, to inspect rows and to move times."""
    scope: Scope = field(
        default_factory=lambda: Scope(uuid4(), Actor("member", "ada"), command_id=str(uuid4()))
    )
    limits: SmsLimits = field(default_factory=SmsLimits)

    @property
    def entities(self) -> EntityCommands:
        """Commands on entities, under the API's role."""
        return entity_commands(self.log)

    @property
    def sms(self) -> SmsCommands:
        """Commands on messages, under the API's role."""
        return SmsCommands(self.log, self.entities, clock=now, limits=self.limits)

    @property
    def sender_sms(self) -> SmsCommands:
        """Commands on messages, under the senders' role."""
        return SmsCommands(
            self.sender_log, entity_commands(self.sender_log), clock=now, limits=self.limits
        )

    def lead(self, **fields: Any) -> UUID:
        """Create a lead with a phone number; return its id."""
        given = {"name": "Ada Lovelace", "phone": PHONE, **fields}
        return self.entities.create(self.scope, Lead, given).entity.id

    def ask(self, lead: UUID | None = None, message: str = "Hello", **more: Any) -> UUID:
        """Request a message; return its id."""
        scope = replace(self.scope, command_id=str(uuid4()))
        return self.sms.request(scope, lead or self.lead(), message=message, **more).entity.id

    def sms_values(self, sms: UUID) -> dict[str, Any]:
        """Return the current values of a message."""
        with self.log.scoped(self.scope):
            return self.log.load(Sms, sms).values

    def lead_values(self, lead: UUID) -> dict[str, Any]:
        """Return the current values of a lead."""
        with self.log.scoped(self.scope):
            return self.log.load(Lead, lead).values

    def react(self) -> None:
        """Run process managers and outbox until neither finds more to do."""
        outbox = Outbox(self.sender_log, command_handlers(self.sender_sms))
        for _ in range(STEPS_MAX):
            more = [handle_next_batch(self.follower, each) for each in PROCESSES.values()]
            if not outbox.run_next(self.follower) and not any(more):
                return
        raise AssertionError(f"process managers and outbox are busy after {STEPS_MAX} steps")

    def delivery(self, gateway: SmsGateway, retry_policy: RetryPolicy = QUICK) -> SmsDelivery:
        """Return the delivery of messages to this gateway."""
        return SmsDelivery(self.sender_log, self.sender_sms, self.pool, gateway, retry_policy)

    def send_all(self, gateway: SmsGateway, retry_policy: RetryPolicy = QUICK) -> None:
        """Send all requested messages, retrying without pauses until no message is due."""
        delivery = self.delivery(gateway, retry_policy)
        for _ in range(STEPS_MAX):
            self.react()
            self.skip_waits()
            if not delivery.send_next():
                return
        raise AssertionError(f"messages are still due after {STEPS_MAX} attempts")

    def skip_waits(self) -> None:
        """End all pauses and leases."""
        self.database.execute(
            "UPDATE process_commands SET next_attempt_at = now()"
            " WHERE state = 'waiting' AND next_attempt_at > now()"
        )

    def commands(self) -> list[tuple[Any, ...]]:
        """Return name, state, attempts and error of all commands of process managers."""
        return self.database.execute(COMMANDS).fetchall()


@contextmanager
def open_sms_harness(urls: Urls) -> Iterator[SmsHarness]:
    """Provide a harness while the block lasts."""
    with (
        write_pool(urls.app) as api_pool,
        write_pool(urls.sender) as pool,
        follow_connection(urls.sender, application_name="test") as follower,
        psycopg.connect(urls.superuser, autocommit=True) as database,
    ):
        register_processes(follower, PROCESSES.values())
        yield SmsHarness(EventLog(api_pool), EventLog(pool), pool, follower, database)


def entity_commands(log: EventLog) -> EntityCommands:
    """Return commands on entities that use the real clock."""
    return EntityCommands(log, clock=now, new_id=uuid4)


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def gateway_to(
    twilio: FakeTwilio, public_url: str | None = None, timeout_s: float = GATEWAY_TIMEOUT_S
) -> TwilioGateway:
    """Return Twilio's adapter, pointed at the test server."""
    account = Twilio(twilio.url, ACCOUNT, TOKEN, NUMBER, public_url)
    return TwilioGateway(account, timeout_s=timeout_s)
