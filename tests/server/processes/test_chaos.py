"""Under faults no acknowledged write is lost or doubled, and the read tables match the log.

The checker can fail: test_chaos_checker.py damages correct histories, one rule at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from projections.engine.registry import PROJECTIONS
from runtime.settings import REPOSITORY
from tests.support.chaos.clients import ClientConfig, again_as, reused
from tests.support.chaos.database_checks import check_database
from tests.support.chaos.fault_plan import Targets, plan_faults
from tests.support.chaos.http_transport import http_request
from tests.support.chaos.journal import Answer, Exchange, Journal, SentCommand, read_journals
from tests.support.chaos.operations import (
    HTTP_COMMANDS,
    KnownEntities,
    KnownEntity,
    Request,
    Resolver,
    draw_operation,
)
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


def test_journal_with_torn_last_line_is_readable(tmp_path: Path) -> None:
    exchanges = [
        Exchange(
            SentCommand(
                op, "bulk", "account", "w", values={"company": op}, others=["acme", "beta"]
            ),
            Answer(op, "acknowledged", position=number, outcomes={"acme": 2, "beta": 0}),
        )
        for number, op in enumerate(("a-1", "a-2", "a-3"))
    ]
    journal = Journal(tmp_path, "a")
    for each in exchanges[:2]:
        journal.record_sent(each.sent)
        journal.record_answer(each.answer)
    journal.record_sent(exchanges[2].sent)
    journal.close()
    with (tmp_path / "a.journal").open("ab") as file:
        file.write(b'{"sent":{"op"')
    read_back = read_journals(tmp_path)
    assert read_back[:2] == exchanges[:2]
    assert (read_back[2].sent, read_back[2].answer.ending) == (exchanges[2].sent, "unknown")


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
    assert victims >= {"worker", "sender"}
    verbs = {action.verb for action in actions}
    assert verbs >= {"crash", "break", "fix", "retry", "rebuild", "fail", "heal"}


def record_account(commands: EntityCommands, scope: Scope, journal: Journal, company: str) -> None:
    """Create an account in the log and write the exchange to the journal."""
    workspace = str(scope.workspace_id)
    sent = SentCommand(company, "create", "account", workspace, values={"company": company})
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


FAULTS = [ProjectionFaults(seed, per_mille=1_000, active=True) for seed in range(1_000)]


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
    faults = next(filter(lambda each: _has_both_faults(each, database), FAULTS))
    ProjectionEngine(urls.projector, map(faults.wrap, PROJECTIONS.values())).catch_up()
    errors = {row[0] for row in database.execute("SELECT error FROM projection_parked")}
    assert {error.split(":")[0] for error in errors} == {"InjectedFailure", "InvalidDatetimeFormat"}
    assert broken_database_rules(database, exchanges) >= {"parked", "row"}


def _has_both_faults(faults: ProjectionFaults, database: Connection) -> bool:
    """Whether some account is created with each fault; ids differ from run to run."""
    created = database.execute("SELECT stream_id::text FROM events WHERE topic = 'account.created'")
    found = {faults.fault("accounts", "account.created", each, 1) for (each,) in created}
    return found >= {"raises", "refused"}


def resolved(number: int, known: KnownEntities, *, by_http: bool = True) -> Request:
    """Return the request of this number for a client that knows these entities."""
    operation = draw_operation(SEED, "http-1", number, by_http=by_http)
    return Resolver(operation, f"http-1-{number}", "w", known, new_id=None, position=0).resolve()


def test_operation_without_known_entity_becomes_creation() -> None:
    known = KnownEntities([])
    for number in range(500):
        operation = draw_operation(SEED, "direct-1", number, by_http=False)
        command = resolved(number, known, by_http=False).sent.command
        assert command in {operation.command, "create"}


def test_clients_send_every_command_to_every_route_that_writes() -> None:
    kinds = ("account", "account", "contact", "task", "lead", "appointment", "proposal", "member")
    entities = [KnownEntity(kind, str(UUID(int=n)), 1) for n, kind in enumerate(kinds)]
    known = KnownEntities(entities, [*entities], foreign=entities, commands=[("http-1-1", "c")])
    requests = [resolved(number, known) for number in range(2_000)]
    assert {each.sent.command for each in requests} == {*HTTP_COMMANDS}
    sent = [http_request(each, "/api/imports/id/start") for each in requests]
    paths = {(each.method, each.path.rsplit("/", 1)[-1]) for each in sent if each.method == "POST"}
    assert {name for _, name in paths} >= {
        *("accounts", "contacts", "tasks", "leads", "appointments", "proposals", "members"),
        *("restore", "convert", "merge", "send", "accept", "decline", "cancel", "complete"),
        *("confirm", "update-status", "send-sms", "undo", "bulk", "start"),
    }


def test_retry_has_same_key_and_body_and_reuse_another_body() -> None:
    known = KnownEntities([KnownEntity("account", "acme", 1)])
    revisions = (resolved(number, known) for number in range(500))
    request = next(each for each in revisions if each.sent.command == "revise")
    request = replace(request, sent=replace(request.sent, key="k"))
    again = again_as(request, "http-1-900")
    assert http_request(again) == http_request(request)
    assert (again.sent.key, again.sent.values) == ("k", request.sent.values)
    assert http_request(reused(request)) != http_request(request)
    assert reused(request).sent.is_reuse


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
    assert {each.sent.command for each in outcome.exchanges} == {*HTTP_COMMANDS}
    assert any(each.answer.is_replayed for each in outcome.exchanges), outcome.summary()


def show(line: str) -> str:
    """Print the line at once, past pytest's capture, so that the seed is known after a crash."""
    print(line, end="", file=sys.__stderr__, flush=True)
    return line
