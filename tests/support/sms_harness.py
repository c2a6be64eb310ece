"""Text messages in tests: a log, commands, process managers and a sender, moved step by step."""

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
"""Short pauses, and a breaker that practically never opens."""
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
        """Accept the message; return its id."""
        self.taken.append(sms)
        return f"count-{len(self.taken)}"


@dataclass
class SmsHarness:
    """One workspace of a log and everything that sends its messages, run step by step."""

    log: EventLog
    """With the API's role."""
    own: EventLog
    """With the sender's role."""
    pool: ConnectionPool[Connection]
    """With the sender's role."""
    follower: Connection
    database: Connection
    """A superuser's connection, for queries and for moving clocks."""
    scope: Scope = field(
        default_factory=lambda: Scope(uuid4(), Actor("member", "ada"), command_id=str(uuid4()))
    )
    limits: SmsLimits = field(default_factory=SmsLimits)

    @property
    def entities(self) -> EntityCommands:
        """Commands on entities, with the API's role."""
        return entity_commands(self.log)

    @property
    def sms(self) -> SmsCommands:
        """Commands on messages, with the API's role."""
        return SmsCommands(self.log, self.entities, clock=now, limits=self.limits)

    @property
    def own_sms(self) -> SmsCommands:
        """Commands on messages, with the sender's role."""
        return SmsCommands(self.own, entity_commands(self.own), clock=now, limits=self.limits)

    def lead(self, **fields: Any) -> UUID:
        """Create a lead with a phone number; return its id."""
        given = {"name": "Ada Lovelace", "phone": PHONE, **fields}
        return self.entities.create(self.scope, Lead, given).entity.id

    def ask(self, lead: UUID | None = None, message: str = "Hello", **more: Any) -> UUID:
        """Request a message; return its id."""
        scope = replace(self.scope, command_id=str(uuid4()))
        return self.sms.request(scope, lead or self.lead(), message=message, **more).entity.id

    def facts(self, sms: UUID) -> dict[str, Any]:
        """Return the values of a message."""
        with self.log.scoped(self.scope):
            return self.log.load(Sms, sms).values

    def lead_facts(self, lead: UUID) -> dict[str, Any]:
        """Return the values of a lead."""
        with self.log.scoped(self.scope):
            return self.log.load(Lead, lead).values

    def react(self) -> None:
        """Run the process managers and their commands on the log until nothing is left."""
        outbox = Outbox(self.own, command_handlers(self.own_sms))
        for _ in range(STEPS_MAX):
            more = [handle_next_batch(self.follower, each) for each in PROCESSES.values()]
            if not outbox.run_next(self.follower) and not any(more):
                return
        raise AssertionError("the processes never come to an end")

    def sending(self, gateway: SmsGateway, patience: RetryPolicy = QUICK) -> SmsDelivery:
        """Return a sender that delivers to this gateway."""
        return SmsDelivery(self.own, self.own_sms, self.pool, gateway, patience)

    def send_all(self, gateway: SmsGateway, patience: RetryPolicy = QUICK) -> None:
        """Deliver all requested messages, however many attempts it takes, without pauses."""
        sending = self.sending(gateway, patience)
        for _ in range(STEPS_MAX):
            self.react()
            self.let_time_pass()
            if not sending.send_next():
                return
        raise AssertionError("there is no end of messages")

    def let_time_pass(self) -> None:
        """End all pauses and leases; the order of waiting commands stays."""
        self.database.execute(
            "UPDATE process_commands SET next_attempt_at = now()"
            " WHERE state = 'waiting' AND next_attempt_at > now()"
        )

    def commands(self) -> list[tuple[Any, ...]]:
        """Return name, state, attempts and error of all commands of process managers."""
        return self.database.execute(COMMANDS).fetchall()


@contextmanager
def open_sms_harness(urls: Urls) -> Iterator[SmsHarness]:
    """A harness, while the block lasts."""
    with (
        write_pool(urls.app) as api_pool,
        write_pool(urls.sender) as pool,
        follow_connection(urls.sender, application_name="test") as follower,
        psycopg.connect(urls.superuser, autocommit=True) as database,
    ):
        register_processes(follower, PROCESSES.values())
        yield SmsHarness(EventLog(api_pool), EventLog(pool), pool, follower, database)


def entity_commands(log: EventLog) -> EntityCommands:
    """Return commands on entities, with the real clock."""
    return EntityCommands(log, clock=now, new_id=uuid4)


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def gateway_to(
    twilio: FakeTwilio, public_url: str | None = None, timeout_s: float = GATEWAY_TIMEOUT_S
) -> TwilioGateway:
    """Return Twilio's adapter for the test server."""
    account = Twilio(twilio.url, ACCOUNT, TOKEN, NUMBER, public_url)
    return TwilioGateway(account, timeout_s=timeout_s)
