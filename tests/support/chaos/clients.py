"""A client process: sends one command after the other and keeps a journal of the answers.

    ANNALS_CHAOS_ROLE='{"name": "http-1", …}' python -m tests.support.chaos.clients

It ends on SIGTERM, between two commands. The configuration holds a key, so it is passed by
environment and not as an argument.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Protocol
from uuid import UUID, uuid4

import httpx
import orjson

from commands.keys import parse_token
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.scope import Credential
from eventlog.store.log import EventLog
from runtime.process import end_with_supervisor
from tests.support.chaos.direct_transport import DirectTransport
from tests.support.chaos.http_transport import HttpTransport
from tests.support.chaos.journal import Answer, Journal, SentCommand
from tests.support.chaos.operations import (
    KnownEntities,
    KnownEntity,
    Operation,
    Request,
    Resolver,
    draw_operation,
)
from tests.support.chaos.projection_faults import ProjectionFaults

CONFIG_VARIABLE = "ANNALS_CHAOS_ROLE"
PACE_S = 0.02
"""Longest pause between two commands."""
OUTAGE_PAUSE_S = 0.3
"""Longest pause after an unknown outcome, so that an outage is not met hundreds of times."""
REQUEST_TIMEOUT_S = 4.0
POOL_MAX = 2
WITH_OWN_BODY = ("create", "revise")
"""Commands whose body a client can vary, to use an idempotency key a second time."""
RETRIES_MAX = 20
"""Maximum number of retries of one request; then the client gives it up."""


@dataclass(frozen=True)
class ClientConfig:
    """The configuration of a client process, passed as JSON."""

    name: str
    seed: int
    folder: str
    """The folder of the journals."""
    workspace: str
    url: str
    """URL of the API or of the database."""
    token: str
    """An admin key; a client that writes to the database directly needs it for events of keys."""
    shared: list[dict[str, object]]
    faults: str
    foreign: list[dict[str, object]] = field(default_factory=list)
    """Entities of another workspace."""

    def dump(self) -> str:
        """Return the configuration as JSON."""
        return orjson.dumps(asdict(self)).decode()

    def known(self) -> KnownEntities:
        """Return the entities that every client knows at the start."""
        return KnownEntities(
            [KnownEntity(**entity) for entity in self.shared],  # type: ignore[arg-type]
            foreign=[KnownEntity(**entity) for entity in self.foreign],  # type: ignore[arg-type]
        )


class Transport(Protocol):
    """How a client sends commands."""

    makes_ids: bool

    def perform(self, request: Request) -> Answer:
        """Send the command and return the answer. Raises nothing."""


class Client:
    """Sends one command after the other by one transport."""

    def __init__(self, config: ClientConfig, transport: Transport, journal: Journal) -> None:
        self._config = config
        self._transport = transport
        self._journal = journal
        self._known = config.known()
        self._faults = ProjectionFaults.parse(config.faults)
        self._pace = Random(f"{config.seed}/{config.name}/pace")
        self._position = 0
        self._again: Request | None = None
        self._retries = 0
        self._number = 0
        self.is_done = False

    def run(self) -> None:
        """Send commands until `is_done` is set."""
        while not self.is_done:
            self._number += 1
            op = f"{self._config.name}-{self._number}"
            operation = self._draw()
            request = self._next(op, operation)
            if request is None:
                continue
            self._journal.record_sent(request.sent)
            answer = self._transport.perform(request)
            self._journal.record_answer(answer)
            self._note_answer(request, answer, operation)
            pause_s = OUTAGE_PAUSE_S if answer.ending == "unknown" else PACE_S
            time.sleep(self._pace.random() * pause_s)  # the pace is part of the chaos

    def _draw(self) -> Operation:
        by_http = not self._transport.makes_ids
        return draw_operation(self._config.seed, self._config.name, self._number, by_http=by_http)

    def _next(self, op: str, operation: Operation) -> Request | None:
        """Return the next command, or None to skip this number."""
        if self._again is not None:
            again, self._again = self._again, None
            return again_as(again, op)
        makes_ids = self._transport.makes_ids
        request = Resolver(
            operation,
            op,
            self._config.workspace,
            self._known,
            new_id=uuid4() if makes_ids else None,
            position=self._position,
            key="" if makes_ids or operation.command == "read" else f"key-{op}",
        ).resolve()
        if request.sent.command == "read" and self._faults.affects(str(request.sent.stream)):
            return None  # a parked entity's rows are not updated, so a read may be stale
        return request

    def _note_answer(self, request: Request, answer: Answer, operation: Operation) -> None:
        sent = request.sent
        if answer.ending == "acknowledged":
            self._learn(request, answer)
            if sent.key and operation.is_repeated and not answer.is_replayed:
                is_reuse = operation.is_reuse and sent.command in WITH_OWN_BODY
                self._again = reused(request) if is_reuse else request
        elif answer.ending == "unknown" and self._retries < RETRIES_MAX and _is_retryable(sent):
            self._again = request
            self._retries += 1
            return
        self._retries = 0

    def _learn(self, request: Request, answer: Answer) -> None:
        sent = request.sent
        self._position = max(self._position, answer.position or 0)
        if answer.command_id:
            self._known.add_command(sent.op, answer.command_id)
        if sent.command == "create" and answer.stream is not None:
            version = answer.version or 1
            self._known.add(KnownEntity(sent.kind, answer.stream, version, request.account))
        elif answer.stream is not None and answer.version is not None:
            self._known.see(answer.stream, answer.version)
        for kind, stream in answer.made.items():
            self._known.add(KnownEntity(kind, stream, 1))
        for stream, version in answer.outcomes.items():
            self._known.see(stream, version) if version else None


def _is_retryable(sent: SentCommand) -> bool:
    """Whether it must happen once only if it is sent again: under the same key, or the same id."""
    return bool(sent.key or (sent.command == "create" and sent.stream))


def again_as(request: Request, op: str) -> Request:
    """Return the same request under another name, which its events carry."""
    return replace(request, sent=replace(request.sent, op=op))


def reused(request: Request) -> Request:
    """Return another request with the same idempotency key, which must be refused."""
    fields = {**request.fields, "nextAction": "another body"}
    return replace(request, sent=replace(request.sent, is_reuse=True), fields=fields)


@contextmanager
def open_transport(config: ClientConfig) -> Iterator[Transport]:
    """HTTP or the database, by the scheme of the URL."""
    if config.url.startswith("http"):
        headers = {"Authorization": f"Bearer {config.token}"}
        # Without TLS there are no certificates to load.
        with httpx.Client(
            base_url=config.url, headers=headers, timeout=REQUEST_TIMEOUT_S, verify=False
        ) as http:
            yield HttpTransport(http)
        return
    hinter = Hinter(config.url)
    with write_pool(config.url, max_size=POOL_MAX) as pool:
        try:
            parsed = parse_token(config.token)
            assert parsed is not None
            log = EventLog(pool, after_append=hinter.hint)
            yield DirectTransport(log, UUID(config.workspace), Credential(*parsed))
        finally:
            hinter.close()


def main() -> None:
    """Run the client that the environment describes."""
    end_with_supervisor()
    config = ClientConfig(**orjson.loads(os.environ[CONFIG_VARIABLE]))
    journal = Journal(Path(config.folder), config.name)
    with open_transport(config) as transport:
        client = Client(config, transport, journal)

        def stop(*_: object) -> None:
            client.is_done = True

        signal.signal(signal.SIGTERM, stop)
        client.run()
    journal.close()


if __name__ == "__main__":
    main()
