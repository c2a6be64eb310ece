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
from tests.conftest import Urls
from tests.support.sms_house import CountingGateway, SmsHouse, entity_commands


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


def rename(house: SmsHouse, lead: UUID, name: str) -> None:
    house.entities.revise(house.scope, Lead, lead, lambda facts: {**facts, "name": name})


def rows(house: SmsHouse, statement: str) -> list[tuple[Any, ...]]:
    return house.database.execute(statement.encode()).fetchall()


def follow(house: SmsHouse, process: Process[Any], limit: int = 500) -> None:
    while handle_next_batch(house.follower, process, limit):
        pass


def event(topic: str, data: dict[str, Any], stream: UUID | None = None) -> RecordedEvent:
    """An event as processes see it."""
    return RecordedEvent(
        7, str(UUID(int=1)), str(stream or UUID(int=2)), 3, topic, None, data, b"{}", "", "", 0
    )


# Pure


def test_a_message_that_is_asked_for_is_to_be_sent() -> None:
    asked = event("sms.created", {"fields": {}})
    sent = Command("sendSms", {"smsId": asked.stream_id})
    assert PROCESSES["sms"].react(None, asked) == (None, (sent,))


def test_the_same_event_gives_the_same_ids_and_another_one_others() -> None:
    one = event("sms.created", {})
    ids = {
        command_id("sms", one, 0),
        command_id("sms", one, 1),
        command_id("booking", one, 0),
        command_id("sms", event("sms.created", {}, UUID(int=9)), 0),
        command_id("sms", replace(one, stream_version=4), 0),
    }
    assert len(ids) == 5
    assert command_id("sms", replace(one, position=99), 0) in ids, "other logs have that position"


# The inbox


def test_a_process_begins_at_the_end_of_the_log_and_reacts_to_what_comes(house: SmsHouse) -> None:
    house.lead()
    register_processes(house.follower, [COUNTING])
    lead = house.lead()
    rename(house, lead, "Ada King")
    register_processes(house.follower, [COUNTING])  # a second start changes nothing
    follow(house, COUNTING)
    assert rows(house, "SELECT key, state FROM process_states") == [(str(lead), {"changes": 2})]
    assert [row[:2] for row in house.commands()] == [("note", "waiting")]


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_what_it_remembers_is_carried_over_batches_and_forgotten(
    house: SmsHouse, limit: int
) -> None:
    register_processes(house.follower, [COUNTING])
    lead, gone = house.lead(), house.lead()
    for number in range(5):
        rename(house, lead, f"Ada {number}")
    house.entities.delete(house.scope, Lead, gone)
    follow(house, COUNTING, limit)
    assert rows(house, "SELECT key, state FROM process_states") == [(str(lead), {"changes": 6})]
    data = rows(house, "SELECT data FROM process_commands ORDER BY position")
    assert [row[0] for row in data] == [{"changes": 2}, {"changes": 4}, {"changes": 6}]


def test_an_event_that_a_process_cannot_digest_stops_it_and_nothing_has_moved(
    house: SmsHouse,
) -> None:
    register_processes(house.follower, [COUNTING])
    lead = house.lead()
    rename(house, lead, "Ada King")
    broken = replace(COUNTING, react=lambda memory, one: _break_at(2, memory, one))
    before = rows(house, "SELECT position FROM process_inboxes WHERE process = 'counting'")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            follow(house, broken)
    assert rows(house, "SELECT * FROM process_states") == []
    assert house.commands() == []
    after = rows(house, "SELECT position FROM process_inboxes WHERE process = 'counting'")
    assert after == before
    follow(house, COUNTING)
    assert len(house.commands()) == 1


def _break_at(version: int, memory: Any, one: RecordedEvent) -> Reaction[Any]:
    if one.stream_version == version:
        raise ZeroDivisionError
    return count_changes(memory, one)


def test_several_who_follow_react_to_each_event_once(house: SmsHouse, urls: Urls) -> None:
    register_processes(house.follower, [COUNTING])
    done = threading.Event()

    def work() -> None:
        with follow_connection(urls.sender, application_name="test") as connection:
            while not done.is_set() or handle_next_batch(connection, COUNTING, 3):
                handle_next_batch(connection, COUNTING, 3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    leads = [house.lead() for _ in range(5)]
    for number in range(5):
        for lead in leads:
            rename(house, lead, f"Ada {number}")
    done.set()
    for thread in threads:
        thread.join()
    follow(house, COUNTING)
    states = rows(house, "SELECT key, state FROM process_states")
    assert dict(states) == {str(lead): {"changes": 6} for lead in leads}
    assert len(house.commands()) == 3 * len(leads)


def test_workspaces_are_kept_apart_by_what_a_process_remembers(house: SmsHouse) -> None:
    register_processes(house.follower, [COUNTING])
    same_key = replace(COUNTING, key=lambda one: "the same")
    scope = house.scope
    for workspace in (uuid4(), uuid4()):
        house.scope = Scope(workspace)
        house.lead()
    house.scope = scope
    follow(house, same_key)
    states = rows(house, "SELECT state FROM process_states")
    assert states == [({"changes": 1},), ({"changes": 1},)]


# The outbox


def outbox(house: SmsHouse, **more: Any) -> Outbox:
    return Outbox(house.own, {**command_handlers(house.own_sms), **more})


def waiting_command(house: SmsHouse, name: str = "note") -> tuple[UUID, UUID]:
    """A command that waits; its id and the lead that it is about."""
    register_processes(house.follower, [COUNTING])
    lead = house.lead()
    rename(house, lead, "Ada King")
    follow(house, COUNTING)
    house.database.execute("UPDATE process_commands SET name = %s", (name,))
    return rows(house, "SELECT id FROM process_commands")[0][0], lead


def test_a_command_is_done_in_the_transaction_that_notes_it(house: SmsHouse) -> None:
    command, lead = waiting_command(house)

    def note(scope: Scope, id_: UUID, data: Any) -> None:
        assert (id_, data) == (command, {"changes": 2})
        change = {"status": "contacted"}
        entity_commands(house.own).revise(scope, Lead, lead, lambda facts: {**facts, **change})

    def dies(scope: Scope, id_: UUID, data: Any) -> None:
        note(scope, id_, data)
        raise ZeroDivisionError

    assert outbox(house, note=dies).run_next(house.follower)
    assert house.lead_facts(lead)["status"] == "new", "nothing of it has happened"
    assert house.commands() == [("note", "waiting", 1, "ZeroDivisionError")]
    assert not outbox(house, note=note).run_next(house.follower), "it is not due yet"
    house.let_time_pass()
    assert outbox(house, note=note).run_next(house.follower)
    assert not outbox(house, note=note).run_next(house.follower)
    assert house.lead_facts(lead)["status"] == "contacted"
    ((metadata,),) = rows(house, "SELECT metadata FROM events WHERE topic = 'lead.status_changed'")
    assert metadata["commandId"] == str(command)
    assert metadata["causationId"] == house.scope.command_id
    assert metadata["actor"] == {"type": "system", "id": "annals", "name": "Annals"}


def test_many_who_work_do_each_command_once(house: SmsHouse, urls: Urls) -> None:
    register_processes(house.follower, [COUNTING])
    for lead in [house.lead() for _ in range(10)]:
        rename(house, lead, "Ada King")
    follow(house, COUNTING)
    done: list[UUID] = []

    def work() -> None:
        with follow_connection(urls.sender, application_name="test") as connection:
            box = outbox(house, note=lambda scope, id_, data: done.append(id_))
            while box.run_next(connection):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 10


def test_what_is_refused_ends_and_says_why(house: SmsHouse) -> None:
    waiting_command(house)

    def refuse(scope: Scope, id_: UUID, data: Any) -> None:
        raise NotFound("lead", id_)

    assert outbox(house, note=refuse).run_next(house.follower)
    assert house.commands() == [("note", "refused", 0, "NotFound")]


def test_what_was_done_long_ago_is_forgotten(house: SmsHouse) -> None:
    waiting_command(house)
    house.database.execute("UPDATE process_commands SET state = 'done', ended_at = now()")
    house.follower.execute(DELETE_ENDED.encode())
    assert len(house.commands()) == 1
    house.database.execute("UPDATE process_commands SET ended_at = now() - interval '31 days'")
    house.follower.execute(DELETE_ENDED.encode())
    assert house.commands() == []


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


def test_a_sender_within_a_workspace_sees_that_one(house: SmsHouse, urls: Urls) -> None:
    house.ask()
    house.react()
    counts = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM process_commands)"
    with psycopg.connect(urls.sender) as connection:
        assert connection.execute(counts.encode()).fetchone() == (2, 1)
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", [str(uuid4())])
        assert connection.execute(counts.encode()).fetchone() == (0, 0)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE read.leads SET name = 'x'")


def test_commands_hold_no_personal_data(house: SmsHouse) -> None:
    house.ask(message="Your diagnosis is ready")
    house.react()
    house.send_all(CountingGateway())
    kept = orjson.dumps(rows(house, "SELECT row_to_json(c) FROM process_commands AS c"))
    assert b"diagnosis" not in kept
    assert b"7946" not in kept
