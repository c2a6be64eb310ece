"""Two projectors: one works, the other waits and takes over when the first one is gone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from domain.contact import Contact
from domain.task import Task
from eventlog.connections import Connection
from eventlog.locks import PROJECTION_LOCK
from eventlog.reading import readable_position
from eventlog.scope import Scope
from projections.engine.ledger.coverage import verify_all
from tests.support.databases import Urls
from tests.support.oracle import assert_tables_match_log
from tests.support.processes import (
    Projector,
    api_without_projector,
    projection_holders,
    running_projector,
)
from tests.support.waiting import are_projected, wait_until, wait_until_projected

pytestmark = pytest.mark.long(seconds=25)

TAKEOVER_WITHIN_S = 5.0
RED_WITHIN_S = 10.0
SEED = 20_261_121
KILLS = 4
ROUNDS_BETWEEN_KILLS = (20, 100)


@pytest.fixture
def pair(urls: Urls, tmp_path: Path) -> Iterator[tuple[Projector, Projector]]:
    """A working projector and a waiting one."""
    with ExitStack() as stack:
        first = stack.enter_context(running_projector(urls, tmp_path / "first.log"))
        second = Projector(urls, tmp_path / "second.log")
        stack.callback(second.stop)
        wait_until(second.has_started, "the second projector has started")
        yield first, second


class Writer(threading.Thread):
    """Writes as fast as it can until it is stopped."""

    def __init__(self, commands: EntityCommands, seed: int) -> None:
        super().__init__()
        self._commands = commands
        self._random = Random(seed)
        self._scope = Scope(uuid4())
        self._stopped = threading.Event()
        self.written = 0
        self.stopped_early = True
        """Whether it failed, ending before `stop` was called."""

    def run(self) -> None:
        """Create accounts with children, finish the tasks and delete some of the accounts."""
        while not self._stopped.is_set():
            commands, scope = self._commands, self._scope
            fields = {"company": f"Company {self.written}", "type": "investor"}
            account = commands.create(scope, Account, fields).entity.id
            commands.create(scope, Contact, {"name": "Ada"}, account_id=account)
            task = commands.create(scope, Task, {"title": "Call"}, account_id=account).entity.id
            commands.revise(scope, Task, task, lambda _: {"title": "Called", "status": "done"})
            if self._random.random() < 0.2:
                commands.delete(scope, Account, account)
            self.written += 1
        self.stopped_early = False

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopped.set()
        self.join()


def wait_for_load(writers: list[Writer], rounds: int) -> None:
    """Wait until the writers together have done this many more rounds."""

    def written() -> int:
        return sum(writer.written for writer in writers)

    target = written() + rounds
    wait_until(lambda: written() >= target, f"{rounds} more rounds are written")


def write(commands: EntityCommands, scope: Scope) -> int:
    """Record an event and return its position."""
    return commands.create(scope, Account, {"company": "A", "type": "partner"}).position


def test_one_projector_works_and_the_other_waits(
    pair: tuple[Projector, Projector], commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    for _ in range(10):
        position = write(commands, scope)
        wait_until_projected(database, position)
        assert projection_holders(database) == {pair[0].process.pid}


def test_waiting_projector_takes_over_within_five_seconds_of_a_kill(
    pair: tuple[Projector, Projector], commands: EntityCommands, scope: Scope, database: Connection
) -> None:
    wait_until(
        lambda: projection_holders(database) == {pair[0].process.pid},
        "the first projector holds all projections",
    )
    pair[0].kill()
    position = write(commands, scope)
    assert wait_until_projected(database, position) < TAKEOVER_WITHIN_S
    assert projection_holders(database) == {pair[1].process.pid}


def test_rows_match_the_log_after_kills_under_load(
    urls: Urls, tmp_path: Path, commands: EntityCommands, database: Connection
) -> None:
    random = Random(SEED)
    writers = [Writer(commands, SEED + number) for number in range(3)]
    with ExitStack() as stack:

        def start(number: int) -> Projector:
            output = tmp_path / f"{number}.log"
            projector = Projector(urls, output, ANNALS_PROJECTION_BATCH_SIZE="50")
            stack.callback(projector.stop)
            return projector

        projectors = [start(0), start(1)]
        wait_until(lambda: projection_holders(database) != {0}, "a projector holds the projections")
        for writer in writers:
            writer.start()
        for number in range(KILLS):
            wait_for_load(writers, random.randint(*ROUNDS_BETWEEN_KILLS))
            before = readable_position(database)
            working = projection_holders(database)
            next(each for each in projectors if each.process.pid in working).kill()
            projectors = [each for each in projectors if each.process.poll() is None]
            took_s = wait_until_projected(database, before)
            assert took_s < TAKEOVER_WITHIN_S, f"seed {SEED}, kill {number}"
            projectors.append(start(number + 2))
            wait_until(projectors[-1].has_started, "the new projector has started")
        for writer in writers:
            writer.stop()
        end = readable_position(database)
        wait_until_projected(database, end)
    assert not any(writer.stopped_early for writer in writers)
    assert min(writer.written for writer in writers) > KILLS
    assert_tables_match_log(database)
    assert verify_all(database) == []


def test_paused_projector_keeps_its_locks_and_health_turns_red(
    pair: tuple[Projector, Projector],
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    urls: Urls,
) -> None:
    first, second = pair
    with api_without_projector(urls) as client:
        wait_until(lambda: client.get("/healthz").status_code == 200, "health is green")
        first.signal(signal.SIGSTOP)
        position = write(commands, scope)
        assert (
            wait_until(lambda: client.get("/healthz").status_code == 503, "health is red")
            < RED_WITHIN_S
        )
        assert not are_projected(database, position)
        assert projection_holders(database) == {first.process.pid}, (
            "the other projector does not take over"
        )
        # The remedy without a shell on its machine: terminating its connections fences it off.
        database.execute(
            f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name IN ('annals-project', 'annals-apply')
                  AND datname = current_database()
                  AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory'
                                 AND classid = {PROJECTION_LOCK} AND objsubid = 2)"""
        )
        assert wait_until_projected(database, position) < TAKEOVER_WITHIN_S
        assert projection_holders(database) == {second.process.pid}
        first.signal(signal.SIGCONT)
        position = write(commands, scope)
        wait_until_projected(database, position)
        wait_until(
            lambda: any("is retried" in line["message"] for line in first.lines()),
            "the first projector has noticed its loss",
        )
        assert projection_holders(database) == {second.process.pid}
        wait_until(lambda: client.get("/healthz").json().get("status") == "ok", "health is ok")
    assert verify_all(database) == []
    assert_tables_match_log(database)
