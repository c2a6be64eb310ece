"""Plays a plan of faults against a house full of clients, waits until all is quiet, and judges."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg

from commands.entities import EntityCommands
from commands.keys import issue_key
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.task import Task
from domain.workspace import Workspace
from eventlog.connections import write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from projections.engine.registry import PROJECTIONS
from tests.support.chaos.checker import Violation
from tests.support.chaos.clients import ROLE_VARIABLE, DirectDoor, Role
from tests.support.chaos.curse import Curse
from tests.support.chaos.deeds import Request, Thing, name_field
from tests.support.chaos.history import SUFFIX, Answer, Asked, Deed, Journal, read_journals
from tests.support.chaos.house import House
from tests.support.chaos.plan import Act, Cast, plan
from tests.support.chaos.verdict import judge_at
from tests.support.servers import reachable_folder

if TYPE_CHECKING:
    from tests.support.kafka_broker import RunningKafka

WORKSPACES = 2
COMMON_ACCOUNTS = 4
CURSED_PER_MILLE = 150
ACT_WAIT_MAX_S = 4.0
"""Where clients get on too slowly, the next act is due after so long all the same."""
TICK_S = 0.02
RETRIES_MAX = 5
VIOLATIONS_SHOWN = 10
SAID_MAX_CHARS = 2_000
PARKED = " parked entity "
"""How a projector says so in its log."""

CLIENTS = ("http-1", "http-2", "http-3", "direct-1", "direct-2", "direct-3")

Say = Callable[[str], object]


@dataclass(frozen=True)
class Trial:
    """How long, and from which seed."""

    seed: int
    duration_s: float
    kafka: RunningKafka | None = None

    @property
    def cast(self) -> Cast:
        """Who is there to be broken."""
        return Cast(CLIENTS, tuple(PROJECTIONS), self.kafka is not None)


@dataclass
class Outcome:
    """What came of it."""

    seed: int
    schedule: list[str] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    parked: int = 0
    """How often an entity was parked; all of them are to be back at the end."""

    def summary(self) -> str:
        """One line."""
        endings = [deed.answer.ending for deed in self.deeds]
        told = ", ".join(f"{endings.count(each)} {each}" for each in sorted(set(endings)))
        return (
            f"seed {self.seed}: {len(self.schedule)} acts, {len(self.deeds)} deeds ({told}),"
            f" {self.parked} entities parked"
        )

    def report(self) -> str:
        """The seed, the schedule, and the smallest evidence of what is wrong."""
        shown = self.violations[:VIOLATIONS_SHOWN]
        lines = [self.summary(), "Schedule (step, act):", *self.schedule, ""]
        lines += [f"{len(self.violations)} violations:", *map(str, shown)]
        return "\n".join(lines)


class Conductor:
    """One trial."""

    def __init__(self, trial: Trial, house: House, folder: Path, say: Say) -> None:
        self._trial = trial
        self._house = house
        self._folder = folder
        self._say = say
        self._random = Random(f"{trial.seed}/conductor")
        self._lives = dict.fromkeys(CLIENTS, 0)
        self._roles: dict[str, Role] = {}
        self._read_bytes: dict[Path, int] = {}
        self._steps = 0
        self._skipped = 0
        self._began_at = 0.0
        self.outcome = Outcome(trial.seed)

    def run(self) -> Outcome:
        """Chaos, then quiet, then the verdict. Raises `TimeoutError` where it never gets quiet."""
        self._move_in()
        self._began_at = time.monotonic()
        until = self._began_at + self._trial.duration_s
        for act in plan(self._trial.seed, self._trial.cast):
            if not self._wait_for(act, until):
                break
            self._perform(act)
        self._settle()
        self.outcome.deeds = read_journals(self._folder)
        self.outcome.parked = sum(said.count(PARKED) for said in self._house.said().values())
        self.outcome.violations += judge_at(self._house.superuser_url, self.outcome.deeds)
        return self.outcome

    def _move_in(self) -> None:
        for name in self._house.names:
            self._house.start(name)
        self._roles = dict(self._cast_roles())
        self._house.until(self._house.is_ready, "the API is ready")
        self._house.until(self._is_projected, "the first events are projected")
        for client in CLIENTS:
            self._enter(client)
        self._house.until(self._are_all_at_work, "every client has begun")
        self._count_answers()  # steps count from here

    def _are_all_at_work(self) -> bool:
        return len(list(self._folder.glob(f"*{SUFFIX}"))) > len(CLIENTS)  # and the furnishing's

    def _cast_roles(self) -> Iterator[tuple[str, Role]]:
        """What each client starts from: its workspace, its key, and what all know."""
        journal = Journal(self._folder, "setup")
        with write_pool(self._house.urls.app) as pool:
            log = EventLog(pool)
            workspaces = [Furnished.make(log, journal) for _ in range(WORKSPACES)]
        journal.close()
        for number, name in enumerate(CLIENTS):
            home = workspaces[number % WORKSPACES]
            by_http = name.startswith("http")
            yield (
                name,
                Role(
                    name=name,
                    seed=self._trial.seed,
                    folder=str(self._folder),
                    workspace=str(home.workspace_id),
                    url=self._house.url if by_http else self._house.urls.app,
                    token=home.token if by_http else None,
                    commons=[asdict(thing) for thing in home.commons],
                    curse=str(self._house.curse),
                ),
            )

    def _enter(self, client: str) -> None:
        """Start a client, under a name that no earlier life of it had."""
        self._lives[client] += 1
        role = self._roles[client]
        born = Role(**{**asdict(role), "name": f"{client}.{self._lives[client]}"})
        self._house.launch(client, "tests.support.chaos.clients", **{ROLE_VARIABLE: born.dump()})

    def _wait_for(self, act: Act, until: float) -> bool:
        """Until the act is due; False where the time for chaos is over."""
        give_up_at = time.monotonic() + ACT_WAIT_MAX_S
        while time.monotonic() < until:
            self._steps += self._count_answers()
            if self._steps + self._skipped >= act.step:
                return True
            if time.monotonic() > give_up_at:
                self._skipped = act.step - self._steps
                return True
            time.sleep(TICK_S)
        return False

    def _count_answers(self) -> int:
        """How many deeds were done since the last look."""
        answers = 0
        for path in self._folder.glob(f"*{SUFFIX}"):
            with path.open("rb") as file:
                file.seek(self._read_bytes.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes[path] = self._read_bytes.get(path, 0) + len(whole)
            answers += whole.count(b'{"answer"')
        return answers

    def _perform(self, act: Act) -> None:
        self.outcome.schedule.append(str(act))
        passed_s = time.monotonic() - self._began_at
        self._say(f"{act}   (after {self._steps} deeds, {passed_s:.1f} s)")
        house, target = self._house, act.target
        if act.verb == "start" and target in CLIENTS:
            self._enter(target)
        elif act.verb in ("kill", "start", "pause", "resume"):
            getattr(house, act.verb)(target)
        elif act.verb == "crash":
            house.crash(self._random)
        elif act.verb in ("curse", "lift"):
            curse = house.curse
            house.curse_projectors(Curse(curse.seed, curse.per_mille, act.verb == "curse"))
        elif act.verb == "retry":
            house.start("retry")
        else:
            house.launch("rebuild", "server.cli", "rebuild", target, "--workers", "1")

    def _settle(self) -> None:
        """Everything runs again, the clients have left, and all is projected and un-parked."""
        house = self._house
        self._say("        quiet")
        house.calm()
        for client in CLIENTS:
            house.ask_to_end(client)
        for client in CLIENTS:
            house.wait(client)
        house.kill("retry")
        for _ in range(RETRIES_MAX):
            house.until(self._is_projected, "everything is projected")
            house.start("retry")
            if house.wait("retry") == 0:
                break
        house.until(self._is_projected, "everything is projected")
        if self._trial.kafka is not None:
            house.start("reconcile")
            if house.wait("reconcile") != 0:
                said = house.said()["reconcile"][-SAID_MAX_CHARS:]
                self.outcome.violations.append(Violation("topic", said))

    def _is_projected(self) -> bool:
        """Whether all projections have reached the end of the log."""
        query = """SELECT min(position) >= readable_position() FROM projections
                    WHERE name NOT LIKE '%:%'"""
        try:
            with psycopg.connect(self._house.superuser_url, autocommit=True) as connection:
                row = connection.execute(query).fetchone()
        except psycopg.OperationalError:
            return False
        return bool(row and row[0])


@dataclass
class Furnished:
    """A workspace in which there is something to meet at."""

    workspace_id: UUID
    token: str
    commons: list[Thing]

    @classmethod
    def make(cls, log: EventLog, journal: Journal) -> Furnished:
        """A new one, every step of it in the journal."""
        workspace_id = uuid4()
        door = DirectDoor(log, workspace_id)
        account: str | None = None
        commons: list[Thing] = []
        kinds: list[type[Entity]] = [Workspace, Member, Member]
        kinds += [Account, Contact, Task, Opportunity] * COMMON_ACCOUNTS
        for number, kind in enumerate(kinds):
            op = f"setup-{workspace_id}.{number}"
            stream = str(workspace_id if kind is Workspace else uuid4())
            account = stream if kind is Account else account
            fields = {name_field(kind): op, **({"type": "partner"} if kind is Account else {})}
            asked = Asked(op, "create", kind.KIND, stream, op)
            link = account if kind.BELONGS_TO_ACCOUNT else None
            _perform(door, journal, Request(asked, kind, fields, link))
            if kind is not Workspace:
                commons.append(Thing(kind.KIND, stream, 1, link))
        return cls(workspace_id, cls._token(log, workspace_id, journal), commons)

    @staticmethod
    def _token(log: EventLog, workspace_id: UUID, journal: Journal) -> str:
        key_id, op = uuid4(), f"setup-{workspace_id}.key"
        commands = EntityCommands(log, clock=lambda: datetime.now(UTC), new_id=lambda: key_id)
        asked = Asked(op, "create", "api_key", str(key_id), op)
        journal.asks(asked)
        scope = Scope(workspace_id, user_agent=op)
        issued = issue_key(commands, scope, {"name": op, "role": "admin"})
        journal.hears(Answer(op, "acknowledged", str(key_id), 1, issued.outcome.position))
        return issued.token


def _perform(door: DirectDoor, journal: Journal, request: Request) -> None:
    journal.asks(request.asked)
    answer = door.perform(request)
    journal.hears(answer)
    assert answer.ending == "acknowledged", answer


@contextmanager
def _opened(trial: Trial) -> Iterator[tuple[House, Path]]:
    with reachable_folder() as folder:
        journals = folder / "journals"
        journals.mkdir()
        house = House(folder, Curse(trial.seed, CURSED_PER_MILLE), trial.kafka)
        try:
            yield house, journals
        finally:
            house.stop()


def run(trial: Trial, say: Say = lambda line: None) -> Outcome:
    """One trial, in a house of its own. Raises whatever keeps it from an end."""
    say(f"seed {trial.seed}")
    with _opened(trial) as (house, journals):
        conductor = Conductor(trial, house, journals, say)
        try:
            outcome = conductor.run()
        except BaseException:
            sys.stderr.write(f"{conductor.outcome.report()}\n{_last_words(house)}\n")
            raise
        if outcome.violations:
            say(_last_words(house))
        return outcome


def _last_words(house: House) -> str:
    """The end of what each process wrote."""
    return "\n".join(
        f"--- {name}\n{said[-SAID_MAX_CHARS:]}" for name, said in sorted(house.said().items())
    )
