"""The checker of the chaos test accepts correct histories and rejects invented ones.

Each invented history is a correct one that was damaged in one way, as a bug would damage it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.chaos.checker import check
from tests.support.chaos.checker.history import Event, History
from tests.support.chaos.checker.wholes import GatewayMessage, check_gateway
from tests.support.chaos.journal import Answer, Exchange, SentCommand

HOME, OTHER = "home", "other"
"""Two workspaces."""
ACME, BETA = "acme", "beta"

Histories = tuple[list[Exchange], list[Event]]


def sent(op: str, command: Any, stream: str | None = None, **more: Any) -> SentCommand:
    """Return a command on an account."""
    return SentCommand(op, command, more.pop("kind", "account"), HOME, stream, **more)


def answered(command: SentCommand, position: int, version: int | None = None, **more: Any) -> Any:
    """Return the command with the answer that acknowledges it."""
    stream = more.pop("stream", command.stream)
    return Exchange(command, Answer(command.op, "acknowledged", stream, version, position, **more))


def ended(command: SentCommand, ending: Any) -> Exchange:
    """Return the command with an answer of another ending."""
    return Exchange(command, Answer(command.op, ending))


def recorded(op: str, topic: str, stream: str, version: int, position: int, **more: Any) -> Event:
    """Return an event."""
    data = {name: more[name] for name in more if name not in ("account", "undoes", "workspace")}
    return Event(
        position,
        more.get("workspace", HOME),
        stream,
        version,
        topic,
        more.get("account"),
        data,
        op,
        more.get("undoes"),
    )


def change(**fields: tuple[Any, Any]) -> dict[str, Any]:
    """Return the data of an update: before and after, by field."""
    return {name: {"before": before, "after": after} for name, (before, after) in fields.items()}


def broken_rules(exchanges: list[Exchange], events: list[Event]) -> set[str]:
    """Return the rules that do not hold."""
    return {violation.rule for violation in check(exchanges, events)}


def simple() -> Histories:
    """Two accounts: one is created and changed, the other created and deleted twice."""
    a1 = sent("a-1", "create", ACME, values={"company": "a-1"})
    a2 = sent("a-2", "revise", ACME, values={"company": "a-2", "nextAction": "call"}, key="k-2")
    b1 = sent("b-1", "create", BETA, values={"company": "b-1"})
    exchanges = [
        answered(a1, 1, 1),
        answered(a2, 3, 2, command_id="c-2"),
        answered(b1, 2, 1),
        answered(sent("b-2", "delete", BETA), 4, 2),
        answered(sent("b-3", "delete", BETA), 5, 2),
    ]
    new = {"company": ("a-1", "a-2"), "nextAction": (None, "call")}
    events = [
        recorded(
            "a-1", "account.created", ACME, 1, 1, fields={"company": "a-1", "status": "prospect"}
        ),
        recorded("b-1", "account.created", BETA, 1, 2, fields={"company": "b-1"}),
        recorded("a-2", "account.updated", ACME, 2, 3, changes=change(**new)),
        recorded("b-2", "account.deleted", BETA, 2, 4, fields={"company": "b-1"}),
    ]
    return exchanges, events


def family() -> Histories:
    """An account with two children is deleted and restored with both."""
    a1 = sent("a-1", "create", ACME, values={"company": "a-1"})
    exchanges = [answered(a1, 1, 1)]
    events = [recorded("a-1", "account.created", ACME, 1, 1, fields={"company": "a-1"})]
    for number, child in enumerate(("ada", "bob"), start=2):
        op = f"a-{number}"
        command = sent(op, "create", child, kind="contact", values={"name": op})
        exchanges.append(answered(command, number, 1))
        events.append(
            recorded(op, "contact.created", child, 1, number, fields={"name": op}, account=ACME)
        )
    exchanges.append(answered(sent("a-4", "delete", ACME), 6, 2))
    exchanges.append(answered(sent("a-5", "restore", ACME), 9, 3))
    lost = {"account": ACME, "fields": {}, "deletedWith": ACME}
    back = {"account": ACME, "fields": {"name": "back"}}
    events += [
        recorded("a-4", "contact.deleted", "ada", 2, 4, **lost),
        recorded("a-4", "contact.deleted", "bob", 2, 5, **lost),
        recorded("a-4", "account.deleted", ACME, 2, 6, fields={}),
        recorded("a-5", "account.restored", ACME, 3, 7, fields={"company": "a-1"}),
        recorded("a-5", "contact.restored", "ada", 3, 8, **back),
        recorded("a-5", "contact.restored", "bob", 3, 9, **back),
    ]
    return exchanges, events


def merged() -> Histories:
    """An account with a child is merged into another one."""
    exchanges, events = simple()
    del exchanges[3:], events[3:]
    ada = sent("b-4", "create", "ada", kind="contact", values={"name": "b-4"})
    merge = sent("a-5", "merge", ACME, others=[BETA])
    exchanges += [answered(ada, 4, 1), answered(merge, 8, 3)]
    events += [
        recorded("b-4", "contact.created", "ada", 1, 4, fields={"name": "b-4"}, account=BETA),
        recorded("a-5", "contact.deleted", "ada", 2, 5, fields={}, account=BETA, movedTo=ACME),
        recorded(
            "a-5",
            *("contact.restored", "ada", 3, 6),
            fields={"name": "b-4"},
            account=ACME,
            movedFrom=BETA,
        ),
        recorded("a-5", "account.deleted", BETA, 2, 7, fields={}, mergedInto=ACME),
        recorded("a-5", "account.merged", ACME, 3, 8, changes={}, other=BETA),
    ]
    return exchanges, events


def undone() -> Histories:
    """A change of two fields is undone."""
    exchanges, events = simple()
    undo = sent("a-9", "undo", undoes="a-2", key="k-9")
    exchanges.append(answered(undo, 9, command_id="c-9"))
    back = change(company=("a-2", "a-1"), nextAction=("call", None))
    events.append(recorded("a-9", "account.updated", ACME, 3, 9, changes=back, undoes=3))
    return exchanges, events


def in_bulk() -> Histories:
    """One of two accounts is changed by a bulk change; the other one is deleted."""
    exchanges, events = simple()
    command = sent(
        "a-9", "bulk", others=[ACME, BETA], values={"company": "a-9"}, change="set", key="k-9"
    )
    exchanges.append(answered(command, 9, outcomes={ACME: 3, BETA: 0}))
    new = change(company=("a-2", "a-9"))
    events.append(recorded("a-9", "account.updated", ACME, 3, 9, changes=new))
    return exchanges, events


def imported() -> Histories:
    """A file of two accounts is imported by a job."""
    command = sent("a-1", "import", rows=["x", "y"], key="k-1")
    counts = {"processed": 2, "succeeded": 2, "failed": 0, "counts": {"created": 2}}
    return [answered(command, 1, job="job")], [
        recorded("a-1", "job.requested", "job", 1, 1),
        recorded("a-1", "account.created", "x", 1, 2, fields={"company": "x"}),
        recorded("a-1", "account.created", "y", 1, 3, fields={"company": "y"}),
        recorded("a-1", "job.progressed", "job", 2, 4, **counts),
        recorded("a-1", "job.completed", "job", 3, 5),
    ]


def converted() -> Histories:
    """A lead is converted into an account and a contact."""
    lead = sent("a-1", "create", "lead", kind="lead", values={"name": "a-1"})
    convert = sent("a-2", "convert", "lead", kind="lead", values={"status": "won"})
    made = {"account": ACME, "contact": "ada"}
    links = change(
        status=("new", "won"),
        convertedAccountId=(None, ACME),
        convertedContactId=(None, "ada"),
    )
    return [answered(lead, 1, 1), answered(convert, 4, 2, made=made)], [
        recorded("a-1", "lead.created", "lead", 1, 1, fields={"name": "a-1"}),
        recorded("a-2", "account.created", ACME, 1, 2, fields={"company": "a-1"}),
        recorded("a-2", "contact.created", "ada", 1, 3, fields={}, account=ACME),
        recorded("a-2", "lead.converted", "lead", 2, 4, changes=links),
    ]


def texted() -> Histories:
    """A message is requested, and the sender records that it was sent."""
    values = {"leadId": "lead", "message": "a-1"}
    fields = {**values, "phone": "+1", "status": "pending"}
    return [answered(sent("a-1", "sms", kind="sms", values=values), 1, stream="sms")], [
        recorded("a-1", "sms.created", "sms", 1, 1, fields=fields),
        recorded("", "sms.status_changed", "sms", 2, 2, before="pending", after="sent"),
    ]


CORRECT = (simple, family, merged, undone, in_bulk, imported, converted, texted)


@pytest.mark.parametrize("history", CORRECT)
def test_correct_history_has_no_violation(history: Callable[[], Histories]) -> None:
    assert check(*history()) == []


def without(*positions: int) -> Callable[[Histories], Histories]:
    """Return a function that removes the events at these positions."""
    return lambda history: (
        history[0],
        [event for event in history[1] if event.position not in positions],
    )


def with_event(position: int, /, **more: Any) -> Callable[[Histories], Histories]:
    """Return a function that changes the event at this position."""
    return lambda history: (
        history[0],
        [replace(each, **more) if each.position == position else each for each in history[1]],
    )


def and_event(event: Event) -> Callable[[Histories], Histories]:
    """Return a function that adds an event."""
    return lambda history: (history[0], [*history[1], event])


def with_sent(op: str, **more: Any) -> Callable[[Histories], Histories]:
    """Return a function that changes a command."""

    def damaged(history: Histories) -> Histories:
        exchanges = [
            Exchange(replace(each.sent, **more), each.answer) if each.op == op else each
            for each in history[0]
        ]
        return exchanges, history[1]

    return damaged


def with_answer(op: str, **more: Any) -> Callable[[Histories], Histories]:
    """Return a function that changes the answer to a command."""

    def damaged(history: Histories) -> Histories:
        exchanges = [
            Exchange(each.sent, replace(each.answer, **more)) if each.op == op else each
            for each in history[0]
        ]
        return exchanges, history[1]

    return damaged


def and_exchange(*exchanges: Exchange) -> Callable[[Histories], Histories]:
    """Return a function that adds commands with their answers."""
    return lambda history: ([*history[0], *exchanges], history[1])


def both(*steps: Callable[[Histories], Histories]) -> Callable[[Histories], Histories]:
    """Return a function that damages a history in several steps."""

    def damaged(history: Histories) -> Histories:
        for step in steps:
            history = step(history)
        return history

    return damaged


def repeated(**more: Any) -> Exchange:
    """Return a second attempt of a-2, under its key, with the answer of the first."""
    again = replace(simple()[0][1].sent, op="a-3")
    answer = replace(simple()[0][1].answer, op="a-3", is_replayed=True)
    return Exchange(again, replace(answer, **more))


def revised(**fields: Any) -> dict[str, Any]:
    """Return the data of the update of a-2 with other values."""
    after = {"company": ("a-1", "a-2"), "nextAction": (None, "call"), **fields}
    return {"changes": change(**after)}


UNKNOWN = ended(sent("c-1", "create", values={"company": "c-1"}), "unknown")
TWINS = [
    recorded("c-1", "account.created", stream, 1, position, fields={"company": "c-1"})
    for stream, position in (("gamma", 6), ("delta", 7))
]
STATUS = sent("a-3", "status", ACME, values={"status": "active"})
SECOND_UNDO = recorded("a-10", "account.updated", ACME, 4, 10, changes={}, undoes=3)
INTRUSION = sent("a-3", "intrude", "foreign", change="revise")

INVENTED: dict[str, tuple[Callable[[], Histories], Callable[[Histories], Histories], str]] = {
    "an acknowledged event is missing": (simple, without(3), "lost"),
    "a command is recorded twice": (
        simple,
        and_event(recorded("a-2", "account.updated", ACME, 3, 5, **revised())),
        "doubled",
    ),
    "an unanswered creation is recorded twice": (
        simple,
        both(and_exchange(UNKNOWN), and_event(TWINS[0]), and_event(TWINS[1])),
        "doubled",
    ),
    "a stream has a gap": (simple, with_event(3, version=3), "stream"),
    "a stream is out of order": (
        simple,
        both(with_event(1, position=9), with_event(3, position=1)),
        "stream",
    ),
    "a position is taken twice": (simple, with_event(4, position=3), "position"),
    "a stream lies in two workspaces": (simple, with_event(3, workspace=OTHER), "stream"),
    "the answer names another version": (simple, with_answer("a-2", version=9), "version"),
    "the answer names another position": (simple, with_answer("a-2", position=9), "position"),
    "a refused command is recorded": (simple, with_answer("a-2", ending="refused"), "refused"),
    "an event has no command": (
        simple,
        and_event(recorded("z-1", "account.created", "zeta", 1, 9, fields={})),
        "phantom",
    ),
    "an event is none of its command": (simple, with_event(3, topic="account.deleted"), "strange"),
    "the first of two values was not written": (
        simple,
        with_event(3, data=revised(company=("a-1", "a-0"))),
        "content",
    ),
    "the second of two values was not written": (
        simple,
        with_event(3, data=revised(nextAction=(None, "write"))),
        "content",
    ),
    "a value was written to another entity": (simple, with_event(3, stream=BETA), "lost"),
    "a status was acknowledged and not recorded": (
        simple,
        and_exchange(answered(STATUS, 6, 2)),
        "lost",
    ),
    "a change was made of another version than expected": (
        simple,
        with_sent("a-2", expected_version=2),
        "stale",
    ),
    "an answer is one that must never be given": (
        simple,
        and_exchange(ended(STATUS, "unexpected")),
        "answer",
    ),
    "a later command has an earlier position": (
        simple,
        lambda history: ([history[0][1], history[0][0], *history[0][2:]], history[1]),
        "order",
    ),
    "a retry under the same key was executed again": (
        simple,
        both(
            and_exchange(repeated()),
            and_event(recorded("a-3", "account.updated", ACME, 3, 6, **revised())),
        ),
        "doubled",
    ),
    "a retry gets another answer than the first": (
        simple,
        and_exchange(repeated(position=7)),
        "key",
    ),
    "a retry is not marked as replayed": (
        simple,
        and_exchange(repeated(is_replayed=False)),
        "key",
    ),
    "a retry is refused though the first succeeded": (
        simple,
        and_exchange(repeated(ending="refused", detail="E5010 409")),
        "key",
    ),
    "another body under a used key is accepted": (
        simple,
        both(and_exchange(repeated()), with_sent("a-3", is_reuse=True)),
        "key",
    ),
    "an account is deleted without a child": (family, without(5, 9), "cascade"),
    "an account is restored without a child": (family, without(9), "cascade"),
    "a child survives its account": (
        family,
        both(
            without(7, 8, 9),
            and_event(recorded("a-6", "contact.created", "eve", 1, 9, fields={}, account=ACME)),
            and_exchange(ended(sent("a-6", "create", kind="contact"), "unknown")),
        ),
        "orphan",
    ),
    "a merge leaves a child behind": (merged, without(5, 6), "merge"),
    "a merge moves a child to a third account": (merged, with_event(6, account="gamma"), "merge"),
    "a merge is recorded by half": (merged, without(7), "merge"),
    "an undo restores one of two fields only to another value": (
        undone,
        with_event(
            9, data={"changes": change(company=("a-2", "a-1"), nextAction=("call", "write"))}
        ),
        "undo",
    ),
    "an event is undone by two commands": (undone, and_event(SECOND_UNDO), "undo"),
    "an event is undone twice by one command": (
        undone,
        and_event(replace(SECOND_UNDO, op="a-9")),
        "doubled",
    ),
    "an acknowledged undo records nothing": (undone, without(9), "undo"),
    "an undo undoes what another command did": (undone, with_event(9, undoes=1), "strange"),
    "a bulk change reports a change that it did not make": (
        in_bulk,
        with_answer("a-9", outcomes={ACME: 3, BETA: 2}),
        "bulk",
    ),
    "a bulk change makes a change that it does not report": (
        in_bulk,
        with_answer("a-9", outcomes={ACME: 0, BETA: 0}),
        "bulk",
    ),
    "an atomic bulk change is made in part": (in_bulk, with_sent("a-9", is_atomic=True), "bulk"),
    "a bulk change forgets an entity": (in_bulk, with_answer("a-9", outcomes={ACME: 3}), "bulk"),
    "a row of an import is created twice": (
        imported,
        and_event(recorded("a-1", "account.created", "z", 1, 6, fields={"company": "x"})),
        "doubled",
    ),
    "a row of an import is missing": (imported, without(3), "import"),
    "a job never ends": (imported, without(5), "job"),
    "a job fails": (imported, with_event(5, topic="job.failed"), "job"),
    "the counts of a job do not add up": (
        imported,
        with_event(4, data={"processed": 3, "succeeded": 2, "failed": 0}),
        "job",
    ),
    "a conversion names another account than it created": (
        converted,
        with_answer("a-2", made={"account": BETA, "contact": "ada"}),
        "convert",
    ),
    "a conversion creates no contact": (converted, without(3), "convert"),
    "a command records in another workspace": (
        simple,
        with_sent("b-1", workspace=OTHER),
        "workspace",
    ),
    "an entity is linked to an account of another workspace": (
        simple,
        both(
            with_event(2, workspace=OTHER),
            with_sent("b-1", workspace=OTHER),
            with_event(3, account=BETA),
        ),
        "workspace",
    ),
    "an entity of another workspace is reached": (
        simple,
        and_exchange(answered(INTRUSION, 6)),
        "workspace",
    ),
    "a message has another text than requested": (
        texted,
        with_sent("a-1", values={"leadId": "lead", "message": "other"}),
        "strange",
    ),
}


@pytest.mark.parametrize("name", INVENTED)
def test_invented_history_is_rejected(name: str) -> None:
    correct, damage, rule = INVENTED[name]
    assert rule in broken_rules(*damage(correct()))


def test_evidence_names_command_and_answer() -> None:
    violations = [str(each) for each in check(*without(3)(simple()))]
    assert any("a-2" in each and "answer" in each for each in violations)


def test_unanswered_command_may_or_may_not_be_recorded() -> None:
    exchanges, events = simple()
    exchanges[1] = ended(exchanges[1].sent, "unknown")
    assert check(exchanges, events) == []
    assert check(exchanges, [each for each in events if each.position != 3]) == []


def test_retry_is_executed_if_its_first_attempt_was_not() -> None:
    exchanges, events = simple()
    first = ended(exchanges[1].sent, "unknown")
    executed = repeated(is_replayed=False)
    events[2] = replace(events[2], op="a-3")
    assert check([exchanges[0], first, executed, *exchanges[2:]], events) == []


def test_status_without_event_is_accepted_if_already_set() -> None:
    exchanges, events = simple()
    same = answered(replace(STATUS, values={"status": "prospect"}), 6, 2)
    assert check([*exchanges, same], events) == []


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
    exchanges, events = simple()
    command = sent("r-1", "read", stream, min_position=min_position)
    read = Exchange(command, Answer("r-1", "acknowledged", stream, shown))
    assert broken_rules([*exchanges, read], events) == ({"stale"} if is_stale else set())


@pytest.mark.parametrize(
    ("messages", "damage", "is_broken"),
    [
        ([GatewayMessage("+1", "a-1")], None, False),
        ([], None, True),
        ([GatewayMessage("+1", "a-1")] * 2, None, True),
        ([GatewayMessage("+2", "a-1")], None, True),
        ([GatewayMessage("+1", "a-1"), GatewayMessage("+1", "b-1")], None, True),
        ([GatewayMessage("+1", "a-1")], without(2), True),
    ],
    ids=["right", "never sent", "sent twice", "other number", "not requested", "left pending"],
)
def test_gateway_gets_each_message_once(
    messages: list[GatewayMessage],
    damage: Callable[[Histories], Histories] | None,
    is_broken: bool,
) -> None:
    exchanges, events = damage(texted()) if damage else texted()
    assert bool([*check_gateway(History(exchanges, events), messages)]) == is_broken
