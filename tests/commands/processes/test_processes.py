"""Process managers: each event is reacted to once, each command done once."""

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
class Seen:
    """What the process of these tests remembers of a lead."""

    changes: int


def count_changes(memory: Seen | None, event: RecordedEvent) -> Reaction[Seen]:
    """Counts changes of a lead, and asks for something with every second one; forgets deleted."""
    if event.topic == "lead.deleted":
        return None, ()
    seen = Seen((memory.changes if memory else 0) + 1)
    due = (Command("note", {"changes": seen.changes}),) if seen.changes % 2 == 0 else ()
    return seen, due


COUNTING = Process(
    "counting", frozenset({"lead.created", "lead.updated", "lead.deleted"}), count_changes, Seen
)


def rename(sms_harness: SmsHarness, lead: UUID, name: str) -> None:
    sms_harness.entities.revise(
        sms_harness.scope, Lead, lead, lambda facts: {**facts, "name": name}
    )


def rows(sms_harness: SmsHarness, statement: str) -> list[tuple[Any, ...]]:
    return sms_harness.database.execute(statement.encode()).fetchall()


def follow(sms_harness: SmsHarness, process: Process[Any], limit: int = 500) -> None:
    while handle_next_batch(sms_harness.follower, process, limit):
        pass


# Pure


def test_a_message_that_is_asked_for_is_to_be_sent() -> None:
    asked = recorded_event("sms.created", {"fields": {}})
    sent = Command("sendSms", {"smsId": asked.stream_id})
    assert PROCESSES["sms"].react(None, asked) == (None, (sent,))


def test_the_same_event_gives_the_same_ids_and_another_one_others() -> None:
    one = recorded_event("sms.created", {})
    ids = {
        command_id("sms", one, 0),
        command_id("sms", one, 1),
        command_id("booking", one, 0),
        command_id("sms", recorded_event("sms.created", {}, UUID(int=9)), 0),
        command_id("sms", replace(one, stream_version=4), 0),
    }
    assert len(ids) == 5
    assert command_id("sms", replace(one, position=99), 0) in ids, "other logs have that position"


# The inbox


def test_a_process_begins_at_the_end_of_the_log_and_reacts_to_what_comes(
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
def test_what_it_remembers_is_carried_over_batches_and_forgotten(
    sms_harness: SmsHarness, limit: int
) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    lead, gone = sms_harness.lead(), sms_harness.lead()
    for number in range(5):
        rename(sms_harness, lead, f"Ada {number}")
    sms_harness.entities.delete(sms_harness.scope, Lead, gone)
    follow(sms_harness, COUNTING, limit)
    assert rows(sms_harness, "SELECT key, state FROM process_states") == [
        (str(lead), {"changes": 6})
    ]
    data = rows(sms_harness, "SELECT data FROM process_commands ORDER BY position")
    assert [row[0] for row in data] == [{"changes": 2}, {"changes": 4}, {"changes": 6}]


def test_an_event_that_a_process_cannot_digest_stops_it_and_nothing_has_moved(
    sms_harness: SmsHarness,
) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    lead = sms_harness.lead()
    rename(sms_harness, lead, "Ada King")
    broken = replace(COUNTING, react=lambda memory, one: _break_at(2, memory, one))
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


def _break_at(version: int, memory: Any, one: RecordedEvent) -> Reaction[Any]:
    if one.stream_version == version:
        raise ZeroDivisionError
    return count_changes(memory, one)


def test_several_who_follow_react_to_each_event_once(sms_harness: SmsHarness, urls: Urls) -> None:
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


def test_workspaces_are_kept_apart_by_what_a_process_remembers(sms_harness: SmsHarness) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    same_key = replace(COUNTING, key=lambda one: "the same")
    scope = sms_harness.scope
    for workspace in (uuid4(), uuid4()):
        sms_harness.scope = Scope(workspace)
        sms_harness.lead()
    sms_harness.scope = scope
    follow(sms_harness, same_key)
    states = rows(sms_harness, "SELECT state FROM process_states")
    assert states == [({"changes": 1},), ({"changes": 1},)]


# The outbox


def outbox(sms_harness: SmsHarness, **more: Any) -> Outbox:
    return Outbox(sms_harness.sender_log, {**command_handlers(sms_harness.sender_sms), **more})


def waiting_command(sms_harness: SmsHarness, name: str = "note") -> tuple[UUID, UUID]:
    """A command that waits; its id and the lead that it is about."""
    register_processes(sms_harness.follower, [COUNTING])
    lead = sms_harness.lead()
    rename(sms_harness, lead, "Ada King")
    follow(sms_harness, COUNTING)
    sms_harness.database.execute("UPDATE process_commands SET name = %s", (name,))
    return rows(sms_harness, "SELECT id FROM process_commands")[0][0], lead


def test_a_command_is_done_in_the_transaction_that_notes_it(sms_harness: SmsHarness) -> None:
    command, lead = waiting_command(sms_harness)

    def note(scope: Scope, id_: UUID, data: Any) -> None:
        assert (id_, data) == (command, {"changes": 2})
        change = {"status": "contacted"}
        entity_commands(sms_harness.sender_log).revise(
            scope, Lead, lead, lambda facts: {**facts, **change}
        )

    def dies(scope: Scope, id_: UUID, data: Any) -> None:
        note(scope, id_, data)
        raise ZeroDivisionError

    assert outbox(sms_harness, note=dies).run_next(sms_harness.follower)
    assert sms_harness.lead_values(lead)["status"] == "new", "nothing of it has happened"
    assert sms_harness.commands() == [("note", "waiting", 1, "ZeroDivisionError")]
    assert not outbox(sms_harness, note=note).run_next(sms_harness.follower), "it is not due yet"
    sms_harness.skip_waits()
    assert outbox(sms_harness, note=note).run_next(sms_harness.follower)
    assert not outbox(sms_harness, note=note).run_next(sms_harness.follower)
    assert sms_harness.lead_values(lead)["status"] == "contacted"
    ((metadata,),) = rows(
        sms_harness, "SELECT metadata FROM events WHERE topic = 'lead.status_changed'"
    )
    assert metadata["commandId"] == str(command)
    assert metadata["causationId"] == sms_harness.scope.command_id
    assert metadata["actor"] == {"type": "system", "id": "annals", "name": "Annals"}


def test_many_who_work_do_each_command_once(sms_harness: SmsHarness, urls: Urls) -> None:
    register_processes(sms_harness.follower, [COUNTING])
    for lead in [sms_harness.lead() for _ in range(10)]:
        rename(sms_harness, lead, "Ada King")
    follow(sms_harness, COUNTING)
    done: list[UUID] = []

    def work() -> None:
        with follow_connection(urls.sender, application_name="test") as connection:
            box = outbox(sms_harness, note=lambda scope, id_, data: done.append(id_))
            while box.run_next(connection):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 10


def test_what_is_refused_ends_and_says_why(sms_harness: SmsHarness) -> None:
    waiting_command(sms_harness)

    def refuse(scope: Scope, id_: UUID, data: Any) -> None:
        raise NotFound("lead", id_)

    assert outbox(sms_harness, note=refuse).run_next(sms_harness.follower)
    assert sms_harness.commands() == [("note", "refused", 0, "NotFound")]


def test_what_was_done_long_ago_is_forgotten(sms_harness: SmsHarness) -> None:
    waiting_command(sms_harness)
    sms_harness.database.execute("UPDATE process_commands SET state = 'done', ended_at = now()")
    sms_harness.follower.execute(DELETE_ENDED.encode())
    assert len(sms_harness.commands()) == 1
    sms_harness.database.execute(
        "UPDATE process_commands SET ended_at = now() - interval '31 days'"
    )
    sms_harness.follower.execute(DELETE_ENDED.encode())
    assert sms_harness.commands() == []


# Who may


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
def test_nobody_but_a_sender_can_cause_anything(urls: Urls, role: str, statement: str) -> None:
    with psycopg.connect(getattr(urls, role)) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(uuid4())])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_a_sender_within_a_workspace_sees_that_one(sms_harness: SmsHarness, urls: Urls) -> None:
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
    kept = orjson.dumps(rows(sms_harness, "SELECT row_to_json(c) FROM process_commands AS c"))
    assert b"diagnosis" not in kept
    assert b"7946" not in kept
