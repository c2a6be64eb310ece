"""Whatever breaks, nothing acknowledged is lost or doubled, and the read tables tell history.

First that the checker can fail: a history of one account, and each way in which it may be wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from runtime.settings import REPOSITORY
from tests.conftest import Urls
from tests.support.chaos.checker import Event, check
from tests.support.chaos.clients import Role
from tests.support.chaos.conductor import CLIENTS, Trial, run
from tests.support.chaos.curse import Curse
from tests.support.chaos.deeds import Known, deed, request
from tests.support.chaos.history import Answer, Asked, Deed, Journal, read_journals
from tests.support.chaos.plan import Cast, plan
from tests.support.chaos.verdict import judge
from tests.support.kafka_broker import RunningKafka

SEED = int(os.environ.get("ANNALS_CHAOS_SEED", "20"))
DURATION_S = 60.0
KAFKA_DURATION_S = 30.0
SECONDS_PER_MINUTE = 60
ENDINGS = {"acknowledged", "refused", "unknown"}
ACCOUNTS = 40

ACME, BETA = "acme", "beta"


def done(
    op: str, command: Any, stream: str, version: int, position: int, value: str | None = None
) -> Deed:
    """A deed on an account that was acknowledged."""
    asked = Asked(op, command, "account", stream, value)
    return Deed(asked, Answer(op, "acknowledged", stream, version, position))


def happened(op: str, action: str, stream: str, version: int, position: int, **data: Any) -> Event:
    """An event of an account."""
    return Event(position, "w", stream, version, f"account.{action}", None, data, op)


def changed(before: str, after: str) -> dict[str, Any]:
    """The data of an update of the name."""
    return {"company": {"before": before, "after": after}}


DEEDS = [
    done("a-1", "create", ACME, 1, 1, "a-1"),
    done("a-2", "revise", ACME, 2, 3, "a-2"),
    done("b-1", "create", BETA, 1, 2, "b-1"),
    done("b-2", "delete", BETA, 2, 4),
    done("b-3", "delete", BETA, 2, 5),
]
EVENTS = [
    happened("a-1", "created", ACME, 1, 1, fields={"company": "a-1", "status": "prospect"}),
    happened("b-1", "created", BETA, 1, 2, fields={"company": "b-1", "status": "prospect"}),
    happened("a-2", "updated", ACME, 2, 3, changes=changed("a-1", "a-2")),
    happened("b-2", "deleted", BETA, 2, 4, fields={"company": "b-1", "status": "prospect"}),
]


def broken(deeds: list[Deed], events: list[Event]) -> set[str]:
    """The rules that do not hold."""
    return {violation.rule for violation in check(deeds, events)}


def ended(deed: Deed, ending: Any) -> Deed:
    """The same deed, but the client was told otherwise."""
    return Deed(deed.asked, Answer(deed.op, ending))


def test_a_history_in_which_all_is_well() -> None:
    assert check(DEEDS, EVENTS) == []


def test_an_acknowledged_event_that_is_not_there() -> None:
    assert broken(DEEDS, [EVENTS[0], EVENTS[1], EVENTS[3]]) == {"lost"}


def test_the_evidence_names_the_deed() -> None:
    (violation,) = check(DEEDS, [EVENTS[0], EVENTS[1], EVENTS[3]])
    assert "a-2" in str(violation)
    assert "told" in str(violation)


def test_a_command_that_was_done_twice() -> None:
    again = happened("a-2", "updated", ACME, 3, 5, changes=changed("a-2", "a-2"))
    assert "doubled" in broken(DEEDS, [*EVENTS, again])


def test_a_creation_that_came_about_twice_is_found_though_nobody_was_told() -> None:
    unknown = Deed(Asked("c-1", "create", "account", None, "c-1"), Answer("c-1", "unknown"))
    twins = [
        happened("c-1", "created", stream, 1, position, fields={"company": "c-1"})
        for stream, position in (("gamma", 6), ("delta", 7))
    ]
    assert broken([*DEEDS, unknown], [*EVENTS, twins[0]]) == set()
    assert broken([*DEEDS, unknown], [*EVENTS, *twins]) == {"doubled"}


def test_a_gap_in_a_stream() -> None:
    late = replace(EVENTS[2], version=3)
    assert "stream" in broken(DEEDS, [EVENTS[0], EVENTS[1], late, EVENTS[3]])


def test_a_stream_out_of_order() -> None:
    swapped = [replace(EVENTS[0], position=3), EVENTS[1], replace(EVENTS[2], position=1), EVENTS[3]]
    assert "stream" in broken(DEEDS, swapped)


def test_a_position_that_is_taken_twice() -> None:
    assert "position" in broken(DEEDS, [*EVENTS[:3], replace(EVENTS[3], position=3)])


def test_a_version_and_a_position_that_are_not_those_that_were_told() -> None:
    wrong = Answer("a-2", "acknowledged", ACME, 3, 4)
    assert broken([DEEDS[0], Deed(DEEDS[1].asked, wrong), *DEEDS[2:]], EVENTS) == {
        "version",
        "position",
    }


def test_what_was_refused_and_recorded_all_the_same() -> None:
    assert broken([DEEDS[0], ended(DEEDS[1], "refused"), *DEEDS[2:]], EVENTS) == {"refused"}


def test_what_is_unknown_may_be_there_or_not() -> None:
    deeds = [DEEDS[0], ended(DEEDS[1], "unknown"), *DEEDS[2:]]
    assert check(deeds, EVENTS) == []
    assert check(deeds, [EVENTS[0], EVENTS[1], EVENTS[3]]) == []


def test_an_event_that_nobody_asked_for() -> None:
    assert broken([DEEDS[0], *DEEDS[2:]], EVENTS) == {"phantom"}


def test_an_event_of_another_sort_than_was_asked_for() -> None:
    events = [*EVENTS[:2], replace(EVENTS[2], topic="account.deleted"), EVENTS[3]]
    assert "strange" in broken(DEEDS, events)


def test_content_that_was_not_written() -> None:
    events = [*EVENTS[:2], replace(EVENTS[2], data={"changes": {}}), EVENTS[3]]
    assert broken(DEEDS, events) == {"content"}


def test_a_deletion_that_recorded_nothing_of_what_was_not_deleted() -> None:
    deeds = [*DEEDS, done("a-3", "delete", ACME, 2, 6)]
    assert broken(deeds, EVENTS) == {"lost"}


def test_a_status_that_was_so_already_and_one_that_was_not() -> None:
    assert check([*DEEDS, done("a-3", "status", ACME, 2, 6, "prospect")], EVENTS) == []
    assert broken([*DEEDS, done("a-3", "status", ACME, 2, 6, "active")], EVENTS) == {"lost"}


def test_a_change_of_another_version_than_was_meant() -> None:
    asked = replace(DEEDS[1].asked, expected_version=2)
    assert broken([DEEDS[0], Deed(asked, DEEDS[1].answer), *DEEDS[2:]], EVENTS) == {"stale"}


def test_an_answer_that_must_never_be_given() -> None:
    refused = Deed(
        Asked("a-3", "revise", "account", ACME, "a-3"), Answer("a-3", "unexpected", detail="500")
    )
    assert broken([*DEEDS, refused], EVENTS) == {"answer"}


@pytest.mark.parametrize(
    ("stream", "min_position", "shown", "is_stale"),
    [
        (ACME, 3, 2, False),
        (ACME, 1, 1, False),
        (ACME, 1, 2, False),
        (ACME, 3, 1, True),
        (ACME, 3, None, True),
        (BETA, 4, None, False),
        (BETA, 4, 1, True),
        (BETA, 2, 1, False),
    ],
)
def test_a_read_that_shows_too_little(
    stream: str, min_position: int, shown: int | None, is_stale: bool
) -> None:
    asked = Asked("r-1", "read", "account", stream, min_position=min_position)
    read = Deed(asked, Answer("r-1", "acknowledged", stream, shown))
    assert broken([*DEEDS, read], EVENTS) == ({"stale"} if is_stale else set())


def test_what_a_client_did_later_lies_later() -> None:
    deeds = [DEEDS[1], DEEDS[0], *DEEDS[2:]]
    assert broken(deeds, EVENTS) == {"order"}


def test_a_journal_survives_its_client(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    for each in DEEDS[:2]:
        journal.asks(each.asked)
        journal.hears(each.answer)
    journal.asks(DEEDS[2].asked)
    journal.close()
    with (tmp_path / "a.journal").open("ab") as file:
        file.write(b'{"asked":{"op"')
    told = read_journals(tmp_path)
    assert told[:2] == DEEDS[:2]
    assert (told[2].asked, told[2].answer.ending) == (DEEDS[2].asked, "unknown")


def test_the_same_seed_makes_the_same_plan_and_the_same_deeds() -> None:
    cast = Cast(CLIENTS, tuple(PROJECTIONS), with_kafka=True)

    def deeds(seed: int) -> list[object]:
        return [deed(seed, "http-1", number, by_http=True) for number in range(200)]

    assert [*islice(plan(7, cast), 300)] == [*islice(plan(7, cast), 300)]
    assert [*islice(plan(7, cast), 300)] != [*islice(plan(8, cast), 300)]
    assert deeds(7) == deeds(7) != deeds(8)


def test_a_plan_breaks_everything_in_time() -> None:
    cast = Cast(CLIENTS, tuple(PROJECTIONS), with_kafka=True)
    acts = [*islice(plan(SEED, cast), 1_000)]
    assert [act.step for act in acts] == sorted(act.step for act in acts)
    victims = {act.target for act in acts if act.verb in {"kill", "pause"}}
    assert victims >= {"projector-1", "projector-2", "api", "postgres", "broker", "relay", *CLIENTS}
    assert {act.verb for act in acts} >= {"crash", "curse", "lift", "retry", "rebuild"}


def recorded(commands: EntityCommands, scope: Scope, journal: Journal, company: str) -> None:
    """An account, in the log and in the journal."""
    asked = Asked(company, "create", "account", None, company)
    journal.asks(asked)
    marked = replace(scope, user_agent=company)
    outcome = commands.create(marked, Account, {"company": company, "type": "customer"})
    answer = Answer(company, "acknowledged", str(outcome.entity.id), 1, outcome.position)
    journal.hears(answer)


@pytest.fixture
def deeds(commands: EntityCommands, scope: Scope, tmp_path: Path) -> list[Deed]:
    """Accounts in the log, and the journal of who made them."""
    journal = Journal(tmp_path, "a")
    for number in range(1, ACCOUNTS + 1):
        recorded(commands, scope, journal, f"a-{number}")
    journal.close()
    return read_journals(tmp_path)


def rules(database: Connection, deeds: list[Deed]) -> set[str]:
    """The rules that do not hold in the database."""
    return {violation.rule for violation in judge(database, deeds)}


def test_a_database_in_which_all_is_well(
    deeds: list[Deed], engine: ProjectionEngine, database: Connection
) -> None:
    assert rules(database, deeds) == {"behind", "ledger", "row"}
    engine.catch_up()
    assert judge(database, deeds) == []


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("UPDATE read.accounts SET company = 'wrong' WHERE company = 'a-2'", "row"),
        ("DELETE FROM read.audit WHERE position = 2", "row"),
        ("UPDATE read.account_counts SET n = n + 1", "row"),
        ("UPDATE projection_coverage SET n = n - 1 WHERE projection = 'notes'", "ledger"),
        ("UPDATE projection_coverage SET digest = digest + 1 WHERE projection = 'notes'", "ledger"),
    ],
)
def test_a_wrong_row_and_a_wrong_ledger(
    deeds: list[Deed], engine: ProjectionEngine, database: Connection, damage: str, rule: str
) -> None:
    engine.catch_up()
    database.execute(damage.encode())
    assert rules(database, deeds) == {rule}


def test_a_curse_parks_and_what_is_parked_is_told(
    deeds: list[Deed], urls: Urls, database: Connection
) -> None:
    curse = Curse(seed=1, per_mille=1_000, active=True)
    ProjectionEngine(urls.projector, map(curse.cast, PROJECTIONS.values())).catch_up()
    errors = {row[0] for row in database.execute("SELECT error FROM projection_parked")}
    assert {error.split(":")[0] for error in errors} == {"Cursed", "InvalidDatetimeFormat"}
    assert rules(database, deeds) >= {"parked", "row"}


def test_a_client_finds_somebody_for_every_deed() -> None:
    known = Known([])
    for number in range(500):
        step = deed(SEED, "direct-1", number, by_http=False)
        wanted = request(step, f"direct-1-{number}", known, new_id=None, position=0)
        assert wanted.asked.command in {step.command, "create"}


def test_a_role_travels_as_text() -> None:
    role = Role("a", 1, "journals", "w", "http://x", None, [], str(Curse(1, 2)))
    assert role.dump().startswith('{"name":"a"')
    assert Curse.parse(role.curse) == Curse(1, 2)


def test_whatever_breaks_nothing_is_lost_doubled_or_wrong() -> None:
    """By the long command, for a minute (docs/how-to/run-the-chaos-test.md)."""
    minutes = str(DURATION_S / SECONDS_PER_MINUTE)
    command = [sys.executable, "-m", "benchmarks.chaos", "--minutes", minutes]
    with subprocess.Popen(
        [*command, "--seed", str(SEED)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [*map(tell, process.stdout)]
    assert process.returncode == 0, "".join(lines)
    assert lines[0] == f"seed {SEED}\n"
    assert f"All is well. seed {SEED}: " in lines[-1]
    assert all(f" {ending}" in lines[-1] for ending in ENDINGS), lines[-1]


def test_whatever_breaks_with_kafka_nothing_is_lost_doubled_or_wrong(kafka: RunningKafka) -> None:
    outcome = run(Trial(SEED, KAFKA_DURATION_S, kafka), lambda line: tell(f"{line}\n"))
    assert not outcome.violations, outcome.report()
    assert {each.answer.ending for each in outcome.deeds} == ENDINGS, outcome.summary()


def tell(line: str) -> str:
    """Show it at once, though pytest keeps what tests write: a seed that is lost is of no use."""
    print(line, end="", file=sys.__stderr__, flush=True)
    return line
