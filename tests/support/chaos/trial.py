"""Run a plan of faults against a system with clients at work, let it recover, then check it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, cast
from uuid import UUID, uuid4

import psycopg

from commands.entities import EntityCommands
from commands.keys import issue_key
from domain.account import Account
from domain.contact import Contact
from domain.lead import Lead
from domain.member import Member
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.task import Task
from domain.workspace import Workspace
from eventlog.connections import write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.registry import PROJECTIONS
from tests.support.chaos.checker.history import Violation
from tests.support.chaos.checker.wholes import GatewayMessage
from tests.support.chaos.clients import CONFIG_VARIABLE, ClientConfig
from tests.support.chaos.database_checks import check_database_at
from tests.support.chaos.direct_transport import DirectTransport
from tests.support.chaos.fault_plan import FaultAction, Targets, plan_faults
from tests.support.chaos.journal import (
    SUFFIX,
    Answer,
    Exchange,
    Journal,
    SentCommand,
    read_journals,
)
from tests.support.chaos.operations import KnownEntity, Request, name_field
from tests.support.chaos.projection_faults import ProjectionFaults
from tests.support.chaos.system import ChaosSystem
from tests.support.postgres_server import reachable_folder
from tests.support.twilio_server import twilio_server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.kafka_broker import RunningKafka
    from tests.support.twilio_server import Fault

WORKSPACES = 2
COMMON_ACCOUNTS = 4
FAULTY_PER_MILLE = 150
ACTION_WAIT_MAX_S = 4.0
"""The next action is due after this time even if the clients were too slow to reach its step."""
TICK_S = 0.02
RETRIES_MAX = 5
VIOLATIONS_SHOWN = 10
LOG_SHOWN_MAX_CHARS = 2_000
PHONE = "+447946000000"
PARKED = " parked entity "
"""Part of the log line that a projector writes when it parks an entity."""

PROJECTED = """
SELECT min(position) >= readable_position() FROM projections WHERE name NOT LIKE '%:%'
"""
IDLE = """
SELECT NOT EXISTS (SELECT FROM open_jobs)
   AND NOT EXISTS (
       SELECT FROM events AS e WHERE topic = 'sms.created' AND NOT EXISTS (
              SELECT FROM events AS later
               WHERE later.stream_id = e.stream_id AND later.topic = 'sms.status_changed'))
"""

CLIENTS = ("http-1", "http-2", "http-3", "direct-1", "direct-2", "direct-3")

Say = Callable[[str], object]


@dataclass(frozen=True)
class Trial:
    """The seed and duration of one trial, and the broker if it projects from Kafka."""

    seed: int
    duration_s: float
    kafka: RunningKafka | None = None

    @property
    def targets(self) -> Targets:
        """Everything that the plan may break."""
        return Targets(CLIENTS, tuple(PROJECTIONS), self.kafka is not None)


@dataclass
class Outcome:
    """The result of a trial."""

    seed: int
    schedule: list[str] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    parked: int = 0
    """Number of times an entity was parked; at the end none may be."""

    def summary(self) -> str:
        """Return the seed and the numbers in one line."""
        endings = [exchange.answer.ending for exchange in self.exchanges]
        counts = ", ".join(f"{endings.count(each)} {each}" for each in sorted(set(endings)))
        return (
            f"seed {self.seed}: {len(self.schedule)} actions, {len(self.exchanges)} commands"
            f" ({counts}), {self.parked} entities parked"
        )

    def report(self) -> str:
        """Return the seed, the schedule and the first violations."""
        shown = self.violations[:VIOLATIONS_SHOWN]
        lines = [self.summary(), "Schedule (step, action):", *self.schedule, ""]
        lines += [f"{len(self.violations)} violations:", *map(str, shown)]
        return "\n".join(lines)


class TrialRunner:
    """Runs one trial."""

    def __init__(self, trial: Trial, system: ChaosSystem, folder: Path, say: Say) -> None:
        self._trial = trial
        self._system = system
        self._folder = folder
        self._say = say
        self._random = Random(f"{trial.seed}/conductor")
        self._starts = dict.fromkeys(CLIENTS, 0)
        self._configs: dict[str, ClientConfig] = {}
        self._read_bytes: dict[Path, int] = {}
        self._steps = 0
        self._skipped = 0
        self._began_at = 0.0
        self.outcome = Outcome(trial.seed)

    def run(self) -> Outcome:
        """Run faults, recover, check. Raises `WaitTimeout` if the system does not recover."""
        self._start_everything()
        self._began_at = time.monotonic()
        end_at = self._began_at + self._trial.duration_s
        for action in plan_faults(self._trial.seed, self._trial.targets):
            if not self._wait_for(action, end_at):
                break
            self._perform(action)
        self._recover()
        self.outcome.exchanges = read_journals(self._folder)
        self.outcome.parked = sum(log.count(PARKED) for log in self._system.logs().values())
        messages = [
            GatewayMessage(each.form["To"], each.form["Body"])
            for each in self._system.gateway.messages.values()
        ]
        self.outcome.violations += check_database_at(
            self._system.superuser_url, self.outcome.exchanges, messages
        )
        return self.outcome

    def _start_everything(self) -> None:
        for name in self._system.names:
            self._system.start(name)
        self._configs = dict(self._client_configs())
        wait_until(self._system.is_ready, "the API is ready")
        wait_until(self._is_projected, "the first events are projected")
        for client in CLIENTS:
            self._start_client(client)
        wait_until(self._have_all_started, "every client has started")
        self._count_answers()  # steps count from here

    def _have_all_started(self) -> bool:
        return len(list(self._folder.glob(f"*{SUFFIX}"))) > len(CLIENTS)  # and the setup's

    def _client_configs(self) -> Iterator[tuple[str, ClientConfig]]:
        """Prepare the workspaces and yield the configuration of each client."""
        journal = Journal(self._folder, "setup")
        urls = self._system.urls
        with write_pool(urls.app) as pool, write_pool(urls.owner, max_size=1) as owner_pool:
            log, key_log = EventLog(pool), EventLog(owner_pool)
            workspaces = [PreparedWorkspace.make(log, key_log, journal) for _ in range(WORKSPACES)]
        journal.close()
        for number, name in enumerate(CLIENTS):
            workspace = workspaces[number % WORKSPACES]
            foreign = workspaces[(number + 1) % WORKSPACES]
            by_http = name.startswith("http")
            yield (
                name,
                ClientConfig(
                    name=name,
                    seed=self._trial.seed,
                    folder=str(self._folder),
                    workspace=str(workspace.workspace_id),
                    url=self._system.url if by_http else self._system.urls.app,
                    token=workspace.token,
                    shared=[asdict(entity) for entity in workspace.shared],
                    faults=str(self._system.faults),
                    foreign=[asdict(entity) for entity in foreign.shared],
                ),
            )

    def _start_client(self, client: str) -> None:
        """Start a client under a name that none of its earlier processes had."""
        self._starts[client] += 1
        config = self._configs[client]
        restarted = ClientConfig(**{**asdict(config), "name": f"{client}.{self._starts[client]}"})
        self._system.launch(
            client, "tests.support.chaos.clients", **{CONFIG_VARIABLE: restarted.dump()}
        )

    def _wait_for(self, action: FaultAction, end_at: float) -> bool:
        """Wait until the action is due; return False if the trial's time is over before."""
        give_up_at = time.monotonic() + ACTION_WAIT_MAX_S
        while time.monotonic() < end_at:
            self._steps += self._count_answers()
            if self._steps + self._skipped >= action.step:
                return True
            if time.monotonic() > give_up_at:
                self._skipped = action.step - self._steps
                return True
            time.sleep(TICK_S)  # not `wait_until`: the trial ends by the clock
        return False

    def _count_answers(self) -> int:
        """Return the number of answers in the journals since the last call."""
        answers = 0
        for path in self._folder.glob(f"*{SUFFIX}"):
            with path.open("rb") as file:
                file.seek(self._read_bytes.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes[path] = self._read_bytes.get(path, 0) + len(whole)
            answers += whole.count(b'{"answer"')
        return answers

    def _perform(self, action: FaultAction) -> None:
        self.outcome.schedule.append(str(action))
        passed_s = time.monotonic() - self._began_at
        self._say(f"{action}   (after {self._steps} commands, {passed_s:.1f} s)")
        system, target = self._system, action.target
        if action.verb == "start" and target in CLIENTS:
            self._start_client(target)
        elif action.verb in ("kill", "start", "pause", "resume"):
            getattr(system, action.verb)(target)
        elif action.verb == "crash":
            system.crash(self._random)
        elif action.verb in ("break", "fix"):
            faults = system.faults
            system.restart_projectors_with(
                ProjectionFaults(faults.seed, faults.per_mille, action.verb == "break")
            )
        elif action.verb in ("fail", "heal"):
            system.gateway.down = cast("Fault", target) if action.verb == "fail" else None
        elif action.verb == "retry":
            system.start("retry")
        else:
            system.launch("rebuild", "server.cli", "rebuild", target, "--workers", "1")

    def _recover(self) -> None:
        """Start everything, end the clients, and wait until all is projected and nothing parked."""
        system = self._system
        self._say("        recovery")
        system.recover()
        for client in CLIENTS:
            system.ask_to_end(client)
        for client in CLIENTS:
            system.wait(client)
        wait_until(self._is_idle, "every job has ended and every message was sent or given up")
        system.kill("retry")
        for _ in range(RETRIES_MAX):
            wait_until(self._is_projected, "everything is projected")
            system.start("retry")
            if system.wait("retry") == 0:
                break
        wait_until(self._is_projected, "everything is projected")
        if self._trial.kafka is not None:
            system.start("reconcile")
            if system.wait("reconcile") != 0:
                output = system.logs()["reconcile"][-LOG_SHOWN_MAX_CHARS:]
                self.outcome.violations.append(Violation("topic", output))

    def _is_projected(self) -> bool:
        """Whether all projections have reached the end of the log."""
        return self._finds(PROJECTED)

    def _is_idle(self) -> bool:
        """Whether the worker has no job left and the sender no message."""
        return self._finds(IDLE)

    def _finds(self, query: str) -> bool:
        """Whether the database answers the query with true."""
        try:
            with psycopg.connect(self._system.superuser_url, autocommit=True) as connection:
                row = connection.execute(query.encode()).fetchone()
        except psycopg.OperationalError:
            return False
        return bool(row and row[0])


@dataclass
class PreparedWorkspace:
    """A workspace with a key and with entities that all its clients know."""

    workspace_id: UUID
    token: str
    shared: list[KnownEntity]

    @classmethod
    def make(cls, log: EventLog, key_log: EventLog, journal: Journal) -> PreparedWorkspace:
        """Create a workspace; every command is recorded in the journal.

        key_log: the log in the owner's role, which issues the first key.
        """
        workspace_id = uuid4()
        transport = DirectTransport(log, workspace_id)
        account: str | None = None
        shared: list[KnownEntity] = []
        kinds: list[type[Entity]] = [Workspace, Member, Member]
        kinds += [Account, Contact, Task, Opportunity, Lead] * COMMON_ACCOUNTS
        for number, kind in enumerate(kinds):
            op = f"setup-{workspace_id}.{number}"
            stream = str(workspace_id if kind is Workspace else uuid4())
            account = stream if kind is Account else account
            more = {Account: {"type": "partner"}, Lead: {"phone": PHONE}}.get(kind, {})
            fields = {name_field(kind): op, **more}
            sent = SentCommand(op, "create", kind.KIND, str(workspace_id), stream, fields)
            link = account if kind.BELONGS_TO_ACCOUNT else None
            _perform(transport, journal, Request(sent, kind, fields, link))
            if kind is not Workspace:
                shared.append(KnownEntity(kind.KIND, stream, 1, link))
        return cls(workspace_id, cls._token(key_log, workspace_id, journal), shared)

    @staticmethod
    def _token(log: EventLog, workspace_id: UUID, journal: Journal) -> str:
        key_id, op = uuid4(), f"setup-{workspace_id}.key"
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=lambda: key_id)
        values = {"name": op, "role": "admin"}
        sent = SentCommand(op, "create", "api_key", str(workspace_id), str(key_id), values)
        journal.record_sent(sent)
        scope = Scope(workspace_id, user_agent=op)
        issued = issue_key(commands, scope, values)
        journal.record_answer(Answer(op, "acknowledged", str(key_id), 1, issued.outcome.position))
        return issued.token


def _perform(transport: DirectTransport, journal: Journal, request: Request) -> None:
    journal.record_sent(request.sent)
    answer = transport.perform(request)
    journal.record_answer(answer)
    assert answer.ending == "acknowledged", answer


@contextmanager
def _running_system(trial: Trial) -> Iterator[tuple[ChaosSystem, Path]]:
    with reachable_folder() as folder, twilio_server() as gateway:
        journals = folder / "journals"
        journals.mkdir()
        faults = ProjectionFaults(trial.seed, FAULTY_PER_MILLE)
        system = ChaosSystem(folder, faults, gateway, trial.kafka)
        try:
            yield system, journals
        finally:
            system.stop()


def run(trial: Trial, say: Say = lambda line: None) -> Outcome:
    """Run one trial on a system made for it. Raises the error that keeps the trial from ending."""
    say(f"seed {trial.seed}")
    with _running_system(trial) as (system, journals):
        runner = TrialRunner(trial, system, journals, say)
        try:
            outcome = runner.run()
        except BaseException:
            sys.stderr.write(f"{runner.outcome.report()}\n{_log_ends(system)}\n")
            raise
        if outcome.violations:
            say(_log_ends(system))
        return outcome


def _log_ends(system: ChaosSystem) -> str:
    """Return the last lines of each process's log."""
    return "\n".join(
        f"--- {name}\n{log[-LOG_SHOWN_MAX_CHARS:]}" for name, log in sorted(system.logs().items())
    )
