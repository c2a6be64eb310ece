"""A client process: does one thing after the other, writes down what it asks and what it hears.

    ANNALS_CHAOS_ROLE='{"name": "http-1", …}' python -m tests.support.chaos.clients

It ends on SIGTERM, between two deeds. The role holds a key, so it is no argument.
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
from domain.shared.refusals import Refusal
from eventlog.connections import write_pool
from eventlog.hints import Hinter
from eventlog.scope import Actor, Scope
from eventlog.store.log import EventLog
from runtime.process import end_with_supervisor
from tests.support.chaos.curse import Curse
from tests.support.chaos.deeds import Known, Request, Thing, deed, request
from tests.support.chaos.history import Answer, Ending, Journal

ROLE_VARIABLE = "ANNALS_CHAOS_ROLE"
PACE_S = 0.02
"""Longest pause between two deeds."""
OUTAGE_PAUSE_S = 0.3
"""After an unknown outcome: what is down is not up again at once."""
REQUEST_TIMEOUT_S = 4.0
POOL_MAX = 2
MERGE = "application/merge-patch+json"
CODE_CHARS = 5

NOTHING_RECORDED = {"E3002", "E3004", "E4001"}
"""Failures of which the API says that nothing was recorded; it is taken at its word."""
MAY_HAVE_HAPPENED = {"E3001"}
REFUSED = {404, 409, 412, 422}
"""By a rule of the domain, or because of the version that was meant."""
DOWN = {503, 504}
SAID_MAX_CHARS = 200


@dataclass(frozen=True)
class Role:
    """What a client process has to know. Travels as JSON."""

    name: str
    seed: int
    folder: str
    """Of the journals."""
    workspace: str
    url: str
    """Of the API, or of the database."""
    token: str | None
    """None of a client that writes to the database itself."""
    commons: list[dict[str, object]]
    curse: str

    def dump(self) -> str:
        """As JSON."""
        return orjson.dumps(asdict(self)).decode()

    def known(self) -> Known:
        """What it knows at first."""
        return Known([Thing(**thing) for thing in self.commons])  # type: ignore[arg-type]


class Door(Protocol):
    """Where a client hands in what it wants."""

    makes_ids: bool

    def perform(self, request: Request) -> Answer:
        """Do it, and say what was answered; raises nothing."""


class HttpDoor:
    """The API on its socket."""

    makes_ids = False

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def perform(self, request: Request) -> Answer:
        """Do it by HTTP."""
        op = request.asked.op
        try:
            response = self._send(request)
        except httpx.TransportError as error:
            return Answer(op, "unknown", detail=f"{type(error).__name__}: {error}")
        if request.asked.command == "read":
            return _answer_to_read(request, response)
        if response.is_success:
            return _acknowledged(request, response)
        return Answer(op, _ending(response), detail=_said(response))

    def _send(self, request: Request) -> httpx.Response:
        asked = request.asked
        path = f"/api/{request.kind.PLURAL}"
        headers = {"User-Agent": asked.op}
        if asked.expected_version is not None:
            headers["If-Match"] = f'"{asked.expected_version}"'
        if asked.command == "create":
            link = {"accountId": request.account} if request.account else {}
            return self._http.post(path, json={**request.fields, **link}, headers=headers)
        path = f"{path}/{asked.stream}"
        if asked.command == "delete":
            return self._http.delete(path, headers=headers)
        if asked.command == "restore":
            return self._http.post(f"{path}/restore", headers=headers)
        if asked.command == "read":
            headers["Annals-Min-Position"] = str(asked.min_position)
            return self._http.get(path, headers=headers)
        headers["Content-Type"] = MERGE
        return self._http.patch(path, content=orjson.dumps(request.fields), headers=headers)


class DirectDoor:
    """The commands, in this process, on the log itself."""

    makes_ids = True

    def __init__(self, log: EventLog, workspace: UUID) -> None:
        self._log = log
        self._workspace = workspace
        self._commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=uuid4)

    def perform(self, request: Request) -> Answer:
        """Do it here."""
        asked = request.asked
        actor = Actor("system", asked.client)
        scope = Scope(self._workspace, actor, asked.command, asked.op, user_agent=asked.op)
        try:
            if asked.command == "read":
                return self._read(request, scope)
            outcome = self._command(request, scope)
        except (Refusal, IntegrityError) as error:
            return Answer(asked.op, "refused", detail=f"{type(error).__name__}: {error}")
        except (OperationalError, InterfaceError) as error:
            return Answer(asked.op, "unknown", detail=f"{type(error).__name__}: {error}")
        except PersistenceError as error:
            return Answer(asked.op, "unexpected", detail=f"{type(error).__name__}: {error}")
        entity = outcome.entity
        return Answer(asked.op, "acknowledged", str(entity.id), entity.version, outcome.position)

    def _command(self, request: Request, scope: Scope) -> CommandOutcome:
        asked, kind, commands = request.asked, request.kind, self._commands
        entity_id = UUID(asked.stream)
        if asked.command == "create":
            account_id = UUID(request.account) if request.account else None
            return commands.create(
                scope, kind, request.fields, account_id=account_id, entity_id=entity_id
            )
        version = asked.expected_version
        if asked.command == "delete":
            return commands.delete(scope, kind, entity_id, expected_version=version)
        if asked.command == "restore":
            return commands.restore(scope, kind, entity_id, expected_version=version)
        return commands.revise(
            scope,
            kind,
            entity_id,
            lambda facts: {**facts, **request.fields},
            expected_version=version,
        )

    def _read(self, request: Request, scope: Scope) -> Answer:
        stream = str(request.asked.stream)
        with self._log.scoped(scope):
            entity = self._log.load(request.kind, UUID(stream))
        version = None if entity.is_deleted else entity.version
        return Answer(request.asked.op, "acknowledged", stream, version)


class Client:
    """Does deed after deed at one door."""

    def __init__(self, role: Role, door: Door, journal: Journal) -> None:
        self._role = role
        self._door = door
        self._journal = journal
        self._known = role.known()
        self._curse = Curse.parse(role.curse)
        self._pace = Random(f"{role.seed}/{role.name}/pace")
        self._position = 0
        self._again: Request | None = None
        self._number = 0
        self.is_done = False

    def run(self) -> None:
        """Until `is_done`."""
        while not self.is_done:
            wanted = self._next()
            if wanted is None:
                continue
            self._journal.asks(wanted.asked)
            answer = self._door.perform(wanted)
            self._journal.hears(answer)
            self._learn(wanted, answer)
            pause_s = OUTAGE_PAUSE_S if answer.ending == "unknown" else PACE_S
            time.sleep(self._pace.random() * pause_s)

    def _next(self) -> Request | None:
        """What comes next; None where the turn is passed."""
        self._number += 1
        op = f"{self._role.name}-{self._number}"
        if self._again is not None:
            again, self._again = self._again, None
            return _once_more(again, op)
        by_http = not self._door.makes_ids
        step = deed(self._role.seed, self._role.name, self._number, by_http=by_http)
        new_id = uuid4() if self._door.makes_ids else None
        wanted = request(step, op, self._known, new_id=new_id, position=self._position)
        if wanted.asked.command == "read" and self._curse.is_on(str(wanted.asked.stream)):
            return None  # its rows stand still while it is parked, which is as it should be
        return wanted

    def _learn(self, request: Request, answer: Answer) -> None:
        asked = request.asked
        if answer.ending == "acknowledged":
            self._position = max(self._position, answer.position or 0)
            if asked.command == "create" and answer.stream is not None:
                version = answer.version or 1
                self._known.add(Thing(asked.kind, answer.stream, version, request.account))
            elif answer.stream is not None and answer.version is not None:
                self._known.see(answer.stream, answer.version)
        elif answer.ending == "unknown" and asked.command == "create" and asked.stream:
            self._again = request  # under the same id: it must not come about twice


def _once_more(request: Request, op: str) -> Request:
    asked = request.asked
    again = type(asked)(op, asked.command, asked.kind, asked.stream, op)
    fields = {name: op if value == asked.value else value for name, value in request.fields.items()}
    return type(request)(again, request.kind, fields, request.account)


def _acknowledged(request: Request, response: httpx.Response) -> Answer:
    asked = request.asked
    tag = response.headers.get("ETag")
    stream = asked.stream or str(response.json()["id"])
    version = int(tag.strip('"')) if tag else None
    position = int(response.headers["Annals-Position"])
    return Answer(asked.op, "acknowledged", stream, version, position)


def _answer_to_read(request: Request, response: httpx.Response) -> Answer:
    asked = request.asked
    if response.status_code == httpx.codes.NOT_FOUND:
        return Answer(asked.op, "acknowledged", asked.stream)
    if response.is_success:
        version = int(response.headers["ETag"].strip('"'))
        return Answer(asked.op, "acknowledged", asked.stream, version)
    ending: Ending = "unknown" if response.status_code in DOWN else "unexpected"
    return Answer(asked.op, ending, detail=_said(response))


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
def open_door(role: Role) -> Iterator[Door]:
    """The door that the role has the key of."""
    if role.token is not None:
        headers = {"Authorization": f"Bearer {role.token}"}
        # Without TLS there are no certificates to load.
        with httpx.Client(
            base_url=role.url, headers=headers, timeout=REQUEST_TIMEOUT_S, verify=False
        ) as http:
            yield HttpDoor(http)
        return
    hinter = Hinter(role.url)
    with write_pool(role.url, max_size=POOL_MAX) as pool:
        try:
            yield DirectDoor(EventLog(pool, after_append=hinter.hint), UUID(role.workspace))
        finally:
            hinter.close()


def main() -> None:
    """Play the role that the environment describes."""
    end_with_supervisor()
    role = Role(**orjson.loads(os.environ[ROLE_VARIABLE]))
    journal = Journal(Path(role.folder), role.name)
    with open_door(role) as door:
        client = Client(role, door, journal)

        def stop(*_: object) -> None:
            client.is_done = True

        signal.signal(signal.SIGTERM, stop)
        client.run()
    journal.close()


if __name__ == "__main__":
    main()
