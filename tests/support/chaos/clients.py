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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Protocol
from uuid import UUID, uuid4

import httpx
import orjson
from eventsourcing.persistence import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
)

from commands.entities import CommandOutcome, EntityCommands
from commands.keys import parse_token
from domain.shared.refusals import Refusal
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.reading import readable_position
from eventlog.scope import Actor, Credential, Scope
from eventlog.store.log import EventLog
from runtime.process import end_with_supervisor
from tests.support.chaos.journal import Answer, Ending, Journal
from tests.support.chaos.operations import (
    KnownEntities,
    KnownEntity,
    Request,
    draw_operation,
    resolve_request,
)
from tests.support.chaos.projection_faults import ProjectionFaults

CONFIG_VARIABLE = "ANNALS_CHAOS_ROLE"
PACE_S = 0.02
"""Longest pause between two commands."""
OUTAGE_PAUSE_S = 0.3
"""Longest pause after an unknown outcome, so that an outage is not met hundreds of times."""
WRITER_LIMIT_S = 15.0
"""Time after which PostgreSQL disconnects a writer that holds followers back."""
READABLE_POLL_S = 0.01
REQUEST_TIMEOUT_S = 4.0
POOL_MAX = 2
MERGE = "application/merge-patch+json"
CODE_CHARS = 5

NOTHING_RECORDED = {"E3002", "E3004", "E4001"}
"""Error codes which promise that nothing was recorded; the checker holds the API to it."""
MAY_HAVE_HAPPENED = {"E3001"}
REFUSED = {404, 409, 412, 422}
"""Statuses of a refusal: by a rule of the domain or by a version precondition."""
DOWN = {503, 504}
SAID_MAX_CHARS = 200


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
    """None for a client that writes to the database directly."""
    shared: list[dict[str, object]]
    faults: str

    def dump(self) -> str:
        """Return the configuration as JSON."""
        return orjson.dumps(asdict(self)).decode()

    def known(self) -> KnownEntities:
        """Return the entities that every client knows at the start."""
        return KnownEntities([KnownEntity(**entity) for entity in self.shared])  # type: ignore[arg-type]


class Transport(Protocol):
    """How a client sends commands."""

    makes_ids: bool

    def perform(self, request: Request) -> Answer:
        """Send the command and return the answer. Raises nothing."""


class HttpTransport:
    """Sends commands to the API over HTTP."""

    makes_ids = False

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def perform(self, request: Request) -> Answer:
        """Send the command over HTTP and return the answer."""
        op = request.sent.op
        try:
            response = self._send(request)
        except httpx.TransportError as error:
            return Answer(op, "unknown", detail=f"{type(error).__name__}: {error}")
        if request.sent.command == "read":
            return _answer_to_read(request, response)
        if response.is_success:
            return _acknowledged(request, response)
        return Answer(op, _ending(response), detail=_said(response))

    def _send(self, request: Request) -> httpx.Response:
        sent = request.sent
        path = f"/api/{request.kind.PLURAL}"
        headers = {"User-Agent": sent.op}
        if sent.expected_version is not None:
            headers["If-Match"] = f'"{sent.expected_version}"'
        if sent.command == "create":
            link = {"accountId": request.account} if request.account else {}
            return self._http.post(path, json={**request.fields, **link}, headers=headers)
        path = f"{path}/{sent.stream}"
        if sent.command == "delete":
            return self._http.delete(path, headers=headers)
        if sent.command == "restore":
            return self._http.post(f"{path}/restore", headers=headers)
        if sent.command == "read":
            headers["Annals-Min-Position"] = str(sent.min_position)
            return self._http.get(path, headers=headers)
        headers["Content-Type"] = MERGE
        return self._http.patch(path, content=orjson.dumps(request.fields), headers=headers)


class DirectTransport:
    """Runs commands in this process, on the log."""

    makes_ids = True

    def __init__(
        self, log: EventLog, workspace: UUID, credential: Credential | None = None
    ) -> None:
        self._log = log
        self._credential = credential
        self._workspace = workspace
        self._commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)

    def perform(self, request: Request) -> Answer:
        """Run the command and return the answer."""
        sent = request.sent
        actor = Actor("system", sent.client)
        scope = Scope(
            self._workspace,
            actor,
            command=sent.command,
            command_id=sent.op,
            user_agent=sent.op,
            credential=self._credential,
        )
        try:
            if sent.command == "read":
                return self._read(request, scope)
            outcome = self._command(request, scope)
        except (Refusal, IntegrityError) as error:
            return Answer(sent.op, "refused", detail=f"{type(error).__name__}: {error}")
        except (OperationalError, InterfaceError) as error:
            return Answer(sent.op, "unknown", detail=f"{type(error).__name__}: {error}")
        except PersistenceError as error:
            return Answer(sent.op, "unexpected", detail=f"{type(error).__name__}: {error}")
        entity = outcome.entity
        return Answer(sent.op, "acknowledged", str(entity.id), entity.version, outcome.position)

    def _command(self, request: Request, scope: Scope) -> CommandOutcome:
        sent, kind, commands = request.sent, request.kind, self._commands
        entity_id = UUID(sent.stream)
        if sent.command == "create":
            account_id = UUID(request.account) if request.account else None
            return commands.create(
                scope, kind, request.fields, account_id=account_id, entity_id=entity_id
            )
        version = sent.expected_version
        if sent.command == "delete":
            return commands.delete(scope, kind, entity_id, expected_version=version)
        if sent.command == "restore":
            return commands.restore(scope, kind, entity_id, expected_version=version)
        return commands.revise(
            scope,
            kind,
            entity_id,
            lambda facts: {**facts, **request.fields},
            expected_version=version,
        )

    def _read(self, request: Request, scope: Scope) -> Answer:
        stream = str(request.sent.stream)
        with self._log.transaction(scope) as connection:
            # Another client's event with a lower position may be committed after the client's own.
            deadline = time.monotonic() + WRITER_LIMIT_S
            while (
                readable_position(connection) < request.sent.min_position
                and time.monotonic() < deadline
            ):
                time.sleep(READABLE_POLL_S)  # until the writers below the position have ended
            entity = self._log.load(request.kind, UUID(stream))
        version = None if entity.is_deleted else entity.version
        return Answer(request.sent.op, "acknowledged", stream, version)


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
        self._number = 0
        self.is_done = False

    def run(self) -> None:
        """Send commands until `is_done` is set."""
        while not self.is_done:
            request = self._next()
            if request is None:
                continue
            self._journal.record_sent(request.sent)
            answer = self._transport.perform(request)
            self._journal.record_answer(answer)
            self._note_answer(request, answer)
            pause_s = OUTAGE_PAUSE_S if answer.ending == "unknown" else PACE_S
            time.sleep(self._pace.random() * pause_s)  # the pace is part of the chaos

    def _next(self) -> Request | None:
        """Return the next command, or None to skip this number."""
        self._number += 1
        op = f"{self._config.name}-{self._number}"
        if self._again is not None:
            again, self._again = self._again, None
            return _with_new_op(again, op)
        by_http = not self._transport.makes_ids
        step = draw_operation(self._config.seed, self._config.name, self._number, by_http=by_http)
        new_id = uuid4() if self._transport.makes_ids else None
        request = resolve_request(step, op, self._known, new_id=new_id, position=self._position)
        if request.sent.command == "read" and self._faults.affects(str(request.sent.stream)):
            return None  # a parked entity's rows are not updated, so a read may be stale
        return request

    def _note_answer(self, request: Request, answer: Answer) -> None:
        sent = request.sent
        if answer.ending == "acknowledged":
            self._position = max(self._position, answer.position or 0)
            if sent.command == "create" and answer.stream is not None:
                version = answer.version or 1
                self._known.add(KnownEntity(sent.kind, answer.stream, version, request.account))
            elif answer.stream is not None and answer.version is not None:
                self._known.see(answer.stream, answer.version)
        elif answer.ending == "unknown" and sent.command == "create" and sent.stream:
            self._again = request  # retried under the same id: it must be created once only


def _with_new_op(request: Request, op: str) -> Request:
    sent = request.sent
    again = type(sent)(op, sent.command, sent.kind, sent.stream, op)
    fields = {name: op if value == sent.value else value for name, value in request.fields.items()}
    return type(request)(again, request.kind, fields, request.account)


def _acknowledged(request: Request, response: httpx.Response) -> Answer:
    sent = request.sent
    tag = response.headers.get("ETag")
    stream = sent.stream or str(response.json()["id"])
    version = int(tag.strip('"')) if tag else None
    position = int(response.headers["Annals-Position"])
    return Answer(sent.op, "acknowledged", stream, version, position)


def _answer_to_read(request: Request, response: httpx.Response) -> Answer:
    sent = request.sent
    if response.status_code == httpx.codes.NOT_FOUND:
        return Answer(sent.op, "acknowledged", sent.stream)
    if response.is_success:
        version = int(response.headers["ETag"].strip('"'))
        return Answer(sent.op, "acknowledged", sent.stream, version)
    ending: Ending = "unknown" if response.status_code in DOWN else "unexpected"
    return Answer(sent.op, ending, detail=_said(response))


def _ending(response: httpx.Response) -> Ending:
    code = _said(response)[:CODE_CHARS]
    if code in NOTHING_RECORDED or response.status_code in REFUSED:
        return "refused"
    return "unknown" if code in MAY_HAVE_HAPPENED else "unexpected"


def _said(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{problem['code']} {response.status_code}: {problem['detail']}"
    except (ValueError, KeyError):
        return f"{response.status_code}: {response.text[:SAID_MAX_CHARS]}"


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
