"""Process managers: each event is handled once, and each command is carried out once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest

from commands.delivery.inbox import handle_next_batch, register_processes
from commands.delivery.outbox import DELETE_ENDED, Outbox, command_handlers
from commands.process import Command, Process, Reaction, command_id
from commands.processes import PROCESSES
from domain.lead import Lead
from domain.shared.refusals import NotFound
from eventlog.connections import follow_connection
from eventlog.reading import RecordedEvent
from eventlog.scope import Scope
from tests.support.databases import Urls
from tests.support.events import recorded_event
from tests.support.sms_harness import CountingGateway, SmsHarness, entity_commands


@dataclass(frozen=True)
class ChangeCount:
    """The state that the process of these tests keeps for a lead."""

    changes: int


def count_changes(state: ChangeCount | None, event: RecordedEvent) -> Reaction[ChangeCount]:
    """Count changes of a lead and give a command on every second one; drop deleted leads."""
    if event.topic == "lead.deleted":
        return None, ()
    counted = ChangeCount((state.changes if state else 0) + 1)
    due = (Command("note", {"changes": counted.changes}),) if counted.changes % 2 == 0 else ()
    return counted, due


COUNTING = Process(
    "counting",
    frozenset({"lead.created", "lead.updated", "lead.deleted"}),
    count_changes,
    ChangeCount,
)


def rename(sms_harness: SmsHarness, lead: UUID, name: str) -> None:
    sms_harness.entities.revise(
        sms_harness.scope, Lead, lead, lambda values: {**values, "name": name}
    )


def rows(sms_harness: SmsHarness, statement: str) -> list[tuple[Any, ...]]:
    return sms_harness.database.execute(statement.encode()).fetchall()


def follow(sms_harness: SmsHarness, process: Process[Any], limit: int = 500) -> None:
    while handle_next_batch(sms_harness.follower, process, limit):
        pass


# Reactions


def test_requested_message_gives_a_send_command() -> None:
    requested = recorded_event("sms.created", {"fields": {}})
    send = Command("sendSms", {"smsId": requested.stream_id})
    assert PROCESSES["sms"].react(None, requested) == (None, (send,))


def test_command_ids_depend_on_process_event_and_index() -> None:
    event = recorded_event("sms.created", {})
    ids = {
        command_id("sms", event, 0),
        command_id("sms", event, 1),
        command_id("booking", event, 0),
        command_id("sms", recorded_event("sms.created", {}, UUID(int=9)), 0),
        command_id("sms", replace(event, stream_version=4), 0),
    }
    assert len(ids) == 5
    assert command_id("sms", replace(event, position=99), 0) in ids, (
        "the position may differ in another log"
    )


# The inbox


def test_new_process_starts_at_the_end_of_the_log(
    sms_harness: SmsHarness,
) -> None:
    sms_harness.lead()
    register_processes(sms_harness.follower, [COUNTING])
    lead = sms_harness.lead()
    rename(sms_harness, lead, "Ada King")
    register_processes(sms_harness.follower, [COUNTING])  # a second start changes nothing
    follow(sms_harness, COUNTING)
    assert rows(sms_harness, "SELECT key, state FROM process_states") == [
        (str(lead), {"changes": 2})
    ]
    assert [row[:2] for row in sms_harness.commands()] == [("note", "waiting")]


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_process_state_survives_batches_and_is_dropped_on_deletion(
    sms_harness: SmsHarness, limit: int
) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    lead, deleted = sms_harness.lead(), sms_harness.lead()
    for number in range(5):
        rename(sms_harness, lead, f"Ada {number}")
    sms_harness.entities.delete(sms_harness.scope, Lead, deleted)
    follow(sms_harness, COUNTING, limit)
    assert rows(sms_harness, "SELECT key, state FROM process_states") == [
        (str(lead), {"changes": 6})
    ]
    data = rows(sms_harness, "SELECT data FROM process_commands ORDER BY position")
    assert [row[0] for row in data] == [{"changes": 2}, {"changes": 4}, {"changes": 6}]


def test_failing_event_stops_its_process_without_side_effects(
    sms_harness: SmsHarness,
) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    lead = sms_harness.lead()
    rename(sms_harness, lead, "Ada King")
    broken = replace(COUNTING, react=lambda state, event: _fail_at(2, state, event))
    before = rows(sms_harness, "SELECT position FROM process_inboxes WHERE process = 'counting'")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            follow(sms_harness, broken)
    assert rows(sms_harness, "SELECT * FROM process_states") == []
    assert sms_harness.commands() == []
    after = rows(sms_harness, "SELECT position FROM process_inboxes WHERE process = 'counting'")
    assert after == before
    follow(sms_harness, COUNTING)
    assert len(sms_harness.commands()) == 1


def _fail_at(version: int, state: Any, event: RecordedEvent) -> Reaction[Any]:
    if event.stream_version == version:
        raise ZeroDivisionError
    return count_changes(state, event)


def test_concurrent_followers_handle_each_event_once(sms_harness: SmsHarness, urls: Urls) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    done = threading.Event()

    def work() -> None:
        with follow_connection(urls.sender, application_name="test") as connection:
            while not done.is_set() or handle_next_batch(connection, COUNTING, 3):
                handle_next_batch(connection, COUNTING, 3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    leads = [sms_harness.lead() for _ in range(5)]
    for number in range(5):
        for lead in leads:
            rename(sms_harness, lead, f"Ada {number}")
    done.set()
    for thread in threads:
        thread.join()
    follow(sms_harness, COUNTING)
    states = rows(sms_harness, "SELECT key, state FROM process_states")
    assert dict(states) == {str(lead): {"changes": 6} for lead in leads}
    assert len(sms_harness.commands()) == 3 * len(leads)


def test_process_states_are_separate_per_workspace(sms_harness: SmsHarness) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    same_key = replace(COUNTING, key=lambda event: "the same")
    scope = sms_harness.scope
    for workspace in (uuid4(), uuid4()):
        sms_harness.scope = Scope(workspace)
        sms_harness.lead()
    sms_harness.scope = scope
    follow(sms_harness, same_key)
    states = rows(sms_harness, "SELECT state FROM process_states")
    assert states == [({"changes": 1},), ({"changes": 1},)]


# The outbox


def open_outbox(sms_harness: SmsHarness, **handlers: Any) -> Outbox:
    return Outbox(sms_harness.sender_log, {**command_handlers(sms_harness.sender_sms), **handlers})


def create_waiting_command(sms_harness: SmsHarness, name: str = "note") -> tuple[UUID, UUID]:
    """Create a waiting command; return its id and the lead that it concerns."""
    register_processes(sms_harness.follower, [COUNTING])
    lead = sms_harness.lead()
    rename(sms_harness, lead, "Ada King")
    follow(sms_harness, COUNTING)
    sms_harness.database.execute("UPDATE process_commands SET name = %s", (name,))
    return rows(sms_harness, "SELECT id FROM process_commands")[0][0], lead


def test_command_and_its_state_are_committed_in_one_transaction(sms_harness: SmsHarness) -> None:
    command, lead = create_waiting_command(sms_harness)

    def note(scope: Scope, id_: UUID, data: Any) -> None:
        assert (id_, data) == (command, {"changes": 2})
        change = {"status": "contacted"}
        entity_commands(sms_harness.sender_log).revise(
            scope, Lead, lead, lambda values: {**values, **change}
        )

    def note_and_fail(scope: Scope, id_: UUID, data: Any) -> None:
        note(scope, id_, data)
        raise ZeroDivisionError

    assert open_outbox(sms_harness, note=note_and_fail).run_next(sms_harness.follower)
    assert sms_harness.lead_values(lead)["status"] == "new", "the change is rolled back"
    assert sms_harness.commands() == [("note", "waiting", 1, "ZeroDivisionError")]
    assert not open_outbox(sms_harness, note=note).run_next(sms_harness.follower), (
        "the command is not due yet"
    )
    sms_harness.skip_waits()
    assert open_outbox(sms_harness, note=note).run_next(sms_harness.follower)
    assert not open_outbox(sms_harness, note=note).run_next(sms_harness.follower)
    assert sms_harness.lead_values(lead)["status"] == "contacted"
    ((metadata,),) = rows(
        sms_harness, "SELECT metadata FROM events WHERE topic = 'lead.status_changed'"
    )
    assert metadata["commandId"] == str(command)
    assert metadata["causationId"] == sms_harness.scope.command_id
    assert metadata["actor"] == {"type": "system", "id": "annals", "name": "Annals"}


def test_concurrent_outboxes_carry_out_each_command_once(
    sms_harness: SmsHarness, urls: Urls
) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    for lead in [sms_harness.lead() for _ in range(10)]:
        rename(sms_harness, lead, "Ada King")
    follow(sms_harness, COUNTING)
    done: list[UUID] = []

    def work() -> None:
        with follow_connection(urls.sender, application_name="test") as connection:
            outbox = open_outbox(sms_harness, note=lambda scope, id_, data: done.append(id_))
            while outbox.run_next(connection):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 10


def test_refused_command_ends_with_its_reason(sms_harness: SmsHarness) -> None:
    create_waiting_command(sms_harness)

    def refuse(scope: Scope, id_: UUID, data: Any) -> None:
        raise NotFound("lead", id_)

    assert open_outbox(sms_harness, note=refuse).run_next(sms_harness.follower)
    assert sms_harness.commands() == [("note", "refused", 0, "NotFound")]


def test_commands_that_ended_long_ago_are_deleted(sms_harness: SmsHarness) -> None:
    create_waiting_command(sms_harness)
    sms_harness.database.execute("UPDATE process_commands SET state = 'done', ended_at = now()")
    sms_harness.follower.execute(DELETE_ENDED.encode())
    assert len(sms_harness.commands()) == 1
    sms_harness.database.execute(
        "UPDATE process_commands SET ended_at = now() - interval '31 days'"
    )
    sms_harness.follower.execute(DELETE_ENDED.encode())
    assert sms_harness.commands() == []


# Privileges


@pytest.mark.parametrize("role", ["app", "projector"])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO process_commands (id, workspace_id, process, position, name, data, metadata)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'sms', 1, 'sendSms', '{}', '{}')",
        "UPDATE process_commands SET state = 'waiting'",
        "UPDATE process_inboxes SET position = 0",
        "INSERT INTO process_inboxes VALUES ('another', 0)",
        "DELETE FROM process_inboxes",
        "UPDATE circuit_breakers SET state = 'CLOSED'",
        "SELECT data FROM process_commands",
        "SELECT state FROM process_states",
    ],
)
def test_process_tables_are_closed_to_roles_other_than_the_sender(
    urls: Urls, role: str, statement: str
) -> None:
    with psycopg.connect(getattr(urls, role)) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(uuid4())])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_sender_in_a_workspace_sees_only_that_workspace(
    sms_harness: SmsHarness, urls: Urls
) -> None:
    sms_harness.ask()
    sms_harness.react()
    counts = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM process_commands)"
    with psycopg.connect(urls.sender) as connection:
        assert connection.execute(counts.encode()).fetchone() == (2, 1)
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(uuid4())])
        assert connection.execute(counts.encode()).fetchone() == (0, 0)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE read.leads SET name = 'x'")


def test_commands_hold_no_personal_data(sms_harness: SmsHarness) -> None:
    sms_harness.ask(message="Your diagnosis is ready")
    sms_harness.react()
    sms_harness.send_all(CountingGateway())
    stored = orjson.dumps(rows(sms_harness, "SELECT row_to_json(c) FROM process_commands AS c"))
    assert b"diagnosis" not in stored
    assert b"7946" not in stored
