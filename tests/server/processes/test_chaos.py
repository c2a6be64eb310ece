"""Under faults no acknowledged write is lost or doubled, and the read tables match the log.

The first tests prove that the checker can fail: each damages a correct history in one way.
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
from tests.support.chaos.checker import Event, check
from tests.support.chaos.clients import ClientConfig
from tests.support.chaos.database_checks import check_database
from tests.support.chaos.fault_plan import Targets, plan_faults
from tests.support.chaos.journal import Answer, Exchange, Journal, SentCommand, read_journals
from tests.support.chaos.operations import KnownEntities, draw_operation, resolve_request
from tests.support.chaos.projection_faults import ProjectionFaults
from tests.support.chaos.trial import CLIENTS, Trial, run
from tests.support.databases import Urls
from tests.support.kafka_broker import RunningKafka

pytestmark = pytest.mark.long(seconds=125)

SEED = int(os.environ.get("ANNALS_CHAOS_SEED", "20"))
DURATION_S = 60.0
KAFKA_DURATION_S = 30.0
SECONDS_PER_MINUTE = 60
ENDINGS = {"acknowledged", "refused", "unknown"}
ACCOUNTS = 40

ACME, BETA = "acme", "beta"


def acknowledged(
    op: str, command: Any, stream: str, version: int, position: int, value: str | None = None
) -> Exchange:
    """Return an acknowledged command on an account."""
    sent = SentCommand(op, command, "account", stream, value)
    return Exchange(sent, Answer(op, "acknowledged", stream, version, position))


def event(op: str, action: str, stream: str, version: int, position: int, **data: Any) -> Event:
    """Return an event of an account."""
    return Event(position, "w", stream, version, f"account.{action}", None, data, op)


def changed(before: str, after: str) -> dict[str, Any]:
    """Return the data of an update of the name."""
    return {"company": {"before": before, "after": after}}


EXCHANGES = [
    acknowledged("a-1", "create", ACME, 1, 1, "a-1"),
    acknowledged("a-2", "revise", ACME, 2, 3, "a-2"),
    acknowledged("b-1", "create", BETA, 1, 2, "b-1"),
    acknowledged("b-2", "delete", BETA, 2, 4),
    acknowledged("b-3", "delete", BETA, 2, 5),
]
EVENTS = [
    event("a-1", "created", ACME, 1, 1, fields={"company": "a-1", "status": "prospect"}),
    event("b-1", "created", BETA, 1, 2, fields={"company": "b-1", "status": "prospect"}),
    event("a-2", "updated", ACME, 2, 3, changes=changed("a-1", "a-2")),
    event("b-2", "deleted", BETA, 2, 4, fields={"company": "b-1", "status": "prospect"}),
]


def broken_rules(exchanges: list[Exchange], events: list[Event]) -> set[str]:
    """Return the rules that do not hold."""
    return {violation.rule for violation in check(exchanges, events)}


def with_ending(exchange: Exchange, ending: Any) -> Exchange:
    """Return the same command with an answer of another ending."""
    return Exchange(exchange.sent, Answer(exchange.op, ending))


def test_correct_history_has_no_violation() -> None:
    assert check(EXCHANGES, EVENTS) == []


def test_missing_acknowledged_event_is_lost() -> None:
    assert broken_rules(EXCHANGES, [EVENTS[0], EVENTS[1], EVENTS[3]]) == {"lost"}


def test_evidence_names_command_and_answer() -> None:
    (violation,) = check(EXCHANGES, [EVENTS[0], EVENTS[1], EVENTS[3]])
    assert "a-2" in str(violation)
    assert "answer" in str(violation)


def test_command_recorded_twice_is_doubled() -> None:
    again = event("a-2", "updated", ACME, 3, 5, changes=changed("a-2", "a-2"))
    assert "doubled" in broken_rules(EXCHANGES, [*EVENTS, again])


def test_unanswered_creation_recorded_twice_is_doubled() -> None:
    unknown = Exchange(
        SentCommand("c-1", "create", "account", None, "c-1"), Answer("c-1", "unknown")
    )
    twins = [
        event("c-1", "created", stream, 1, position, fields={"company": "c-1"})
        for stream, position in (("gamma", 6), ("delta", 7))
    ]
    assert broken_rules([*EXCHANGES, unknown], [*EVENTS, twins[0]]) == set()
    assert broken_rules([*EXCHANGES, unknown], [*EVENTS, *twins]) == {"doubled"}


def test_gap_in_stream_is_found() -> None:
    late = replace(EVENTS[2], version=3)
    assert "stream" in broken_rules(EXCHANGES, [EVENTS[0], EVENTS[1], late, EVENTS[3]])


def test_stream_out_of_order_is_found() -> None:
    swapped = [replace(EVENTS[0], position=3), EVENTS[1], replace(EVENTS[2], position=1), EVENTS[3]]
    assert "stream" in broken_rules(EXCHANGES, swapped)


def test_position_taken_twice_is_found() -> None:
    assert "position" in broken_rules(EXCHANGES, [*EVENTS[:3], replace(EVENTS[3], position=3)])


def test_version_and_position_other_than_answered_are_found() -> None:
    wrong = Answer("a-2", "acknowledged", ACME, 3, 4)
    assert broken_rules(
        [EXCHANGES[0], Exchange(EXCHANGES[1].sent, wrong), *EXCHANGES[2:]], EVENTS
    ) == {
        "version",
        "position",
    }


def test_recorded_refusal_is_found() -> None:
    assert broken_rules(
        [EXCHANGES[0], with_ending(EXCHANGES[1], "refused"), *EXCHANGES[2:]], EVENTS
    ) == {"refused"}


def test_unanswered_command_may_be_recorded_or_not() -> None:
    exchanges = [EXCHANGES[0], with_ending(EXCHANGES[1], "unknown"), *EXCHANGES[2:]]
    assert check(exchanges, EVENTS) == []
    assert check(exchanges, [EVENTS[0], EVENTS[1], EVENTS[3]]) == []


def test_event_without_command_is_phantom() -> None:
    assert broken_rules([EXCHANGES[0], *EXCHANGES[2:]], EVENTS) == {"phantom"}


def test_event_that_command_cannot_record_is_strange() -> None:
    events = [*EVENTS[:2], replace(EVENTS[2], topic="account.deleted"), EVENTS[3]]
    assert "strange" in broken_rules(EXCHANGES, events)


def test_missing_content_is_found() -> None:
    events = [*EVENTS[:2], replace(EVENTS[2], data={"changes": {}}), EVENTS[3]]
    assert broken_rules(EXCHANGES, events) == {"content"}


def test_acknowledged_deletion_without_event_is_lost() -> None:
    exchanges = [*EXCHANGES, acknowledged("a-3", "delete", ACME, 2, 6)]
    assert broken_rules(exchanges, EVENTS) == {"lost"}


def test_status_without_event_is_lost_unless_already_set() -> None:
    assert check([*EXCHANGES, acknowledged("a-3", "status", ACME, 2, 6, "prospect")], EVENTS) == []
    assert broken_rules(
        [*EXCHANGES, acknowledged("a-3", "status", ACME, 2, 6, "active")], EVENTS
    ) == {"lost"}


def test_change_of_unexpected_version_is_stale() -> None:
    sent = replace(EXCHANGES[1].sent, expected_version=2)
    assert broken_rules(
        [EXCHANGES[0], Exchange(sent, EXCHANGES[1].answer), *EXCHANGES[2:]], EVENTS
    ) == {"stale"}


def test_unexpected_answer_is_found() -> None:
    refused = Exchange(
        SentCommand("a-3", "revise", "account", ACME, "a-3"),
        Answer("a-3", "unexpected", detail="500"),
    )
    assert broken_rules([*EXCHANGES, refused], EVENTS) == {"answer"}


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
def test_read_older_than_its_position_is_stale(
    stream: str, min_position: int, shown: int | None, is_stale: bool
) -> None:
    sent = SentCommand("r-1", "read", "account", stream, min_position=min_position)
    read = Exchange(sent, Answer("r-1", "acknowledged", stream, shown))
    assert broken_rules([*EXCHANGES, read], EVENTS) == ({"stale"} if is_stale else set())


def test_later_command_at_earlier_position_is_found() -> None:
    exchanges = [EXCHANGES[1], EXCHANGES[0], *EXCHANGES[2:]]
    assert broken_rules(exchanges, EVENTS) == {"order"}


def test_journal_with_torn_last_line_is_readable(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    for each in EXCHANGES[:2]:
        journal.record_sent(each.sent)
        journal.record_answer(each.answer)
    journal.record_sent(EXCHANGES[2].sent)
    journal.close()
    with (tmp_path / "a.journal").open("ab") as file:
        file.write(b'{"sent":{"op"')
    read_back = read_journals(tmp_path)
    assert read_back[:2] == EXCHANGES[:2]
    assert (read_back[2].sent, read_back[2].answer.ending) == (EXCHANGES[2].sent, "unknown")


def test_same_seed_draws_same_plan_and_same_operations() -> None:
    targets = Targets(CLIENTS, tuple(PROJECTIONS), with_kafka=True)

    def operations(seed: int) -> list[object]:
        return [draw_operation(seed, "http-1", number, by_http=True) for number in range(200)]

    assert [*islice(plan_faults(7, targets), 300)] == [*islice(plan_faults(7, targets), 300)]
    assert [*islice(plan_faults(7, targets), 300)] != [*islice(plan_faults(8, targets), 300)]
    assert operations(7) == operations(7) != operations(8)


def test_plan_hits_every_target_and_uses_every_verb() -> None:
    targets = Targets(CLIENTS, tuple(PROJECTIONS), with_kafka=True)
    actions = [*islice(plan_faults(SEED, targets), 1_000)]
    assert [action.step for action in actions] == sorted(action.step for action in actions)
    victims = {action.target for action in actions if action.verb in {"kill", "pause"}}
    assert victims >= {"projector-1", "projector-2", "api", "postgres", "broker", "relay", *CLIENTS}
    assert {action.verb for action in actions} >= {"crash", "break", "fix", "retry", "rebuild"}


def record_account(commands: EntityCommands, scope: Scope, journal: Journal, company: str) -> None:
    """Create an account in the log and write the exchange to the journal."""
    sent = SentCommand(company, "create", "account", None, company)
    journal.record_sent(sent)
    marked = replace(scope, user_agent=company)
    outcome = commands.create(marked, Account, {"company": company, "type": "customer"})
    answer = Answer(company, "acknowledged", str(outcome.entity.id), 1, outcome.position)
    journal.record_answer(answer)


@pytest.fixture
def exchanges(commands: EntityCommands, scope: Scope, tmp_path: Path) -> list[Exchange]:
    """Create accounts in the log and return the journal of their creation."""
    journal = Journal(tmp_path, "a")
    for number in range(1, ACCOUNTS + 1):
        record_account(commands, scope, journal, f"a-{number}")
    journal.close()
    return read_journals(tmp_path)


def broken_database_rules(database: Connection, exchanges: list[Exchange]) -> set[str]:
    """Return the rules that do not hold in the database."""
    return {violation.rule for violation in check_database(database, exchanges)}


def test_database_has_no_violation_once_caught_up(
    exchanges: list[Exchange], engine: ProjectionEngine, database: Connection
) -> None:
    assert broken_database_rules(database, exchanges) == {"behind", "ledger", "row"}
    engine.catch_up()
    assert check_database(database, exchanges) == []


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
def test_wrong_row_and_wrong_ledger_are_found(
    exchanges: list[Exchange],
    engine: ProjectionEngine,
    database: Connection,
    damage: str,
    rule: str,
) -> None:
    engine.catch_up()
    database.execute(damage.encode())
    assert broken_database_rules(database, exchanges) == {rule}


def test_projection_faults_park_entities_and_are_reported(
    exchanges: list[Exchange], urls: Urls, database: Connection
) -> None:
    faults = ProjectionFaults(seed=1, per_mille=1_000, active=True)
    ProjectionEngine(urls.projector, map(faults.wrap, PROJECTIONS.values())).catch_up()
    errors = {row[0] for row in database.execute("SELECT error FROM projection_parked")}
    assert {error.split(":")[0] for error in errors} == {"InjectedFailure", "InvalidDatetimeFormat"}
    assert broken_database_rules(database, exchanges) >= {"parked", "row"}


def test_operation_without_known_entity_becomes_creation() -> None:
    known = KnownEntities([])
    for number in range(500):
        step = draw_operation(SEED, "direct-1", number, by_http=False)
        request = resolve_request(step, f"direct-1-{number}", known, new_id=None, position=0)
        assert request.sent.command in {step.command, "create"}


def test_client_config_and_faults_survive_as_text() -> None:
    config = ClientConfig(
        "a", 1, "journals", "w", "http://x", "annals_1_x", [], str(ProjectionFaults(1, 2))
    )
    assert config.dump().startswith('{"name":"a"')
    assert ProjectionFaults.parse(config.faults) == ProjectionFaults(1, 2)


def test_faults_lose_double_or_corrupt_nothing() -> None:
    """Run the command of docs/how-to/run-the-chaos-test.md for one minute."""
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
        lines = [*map(show, process.stdout)]
    assert process.returncode == 0, "".join(lines)
    assert lines[0] == f"seed {SEED}\n"
    assert f"All is well. seed {SEED}: " in lines[-1]
    assert all(f" {ending}" in lines[-1] for ending in ENDINGS), lines[-1]


def test_faults_with_kafka_lose_double_or_corrupt_nothing(kafka: RunningKafka) -> None:
    outcome = run(Trial(SEED, KAFKA_DURATION_S, kafka), lambda line: show(f"{line}\n"))
    assert not outcome.violations, outcome.report()
    assert {each.answer.ending for each in outcome.exchanges} == ENDINGS, outcome.summary()


def show(line: str) -> str:
    """Print the line at once, past pytest's capture, so that the seed is known after a crash."""
    print(line, end="", file=sys.__stderr__, flush=True)
    return line
