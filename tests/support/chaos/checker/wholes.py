"""The rules about what several entities have in common.

An account is deleted and restored with the entities that belong to it; a merge moves them all; an
undo makes the inverse of what it undoes; a bulk change and an import have the outcomes that they
report; nothing crosses from one workspace to another; the gateway gets each message once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.support.chaos.checker.effects import OF_BULK, is_of_entity
from tests.support.chaos.checker.history import (
    BEGINNING_ACTIONS,
    ENDING_ACTIONS,
    STATUS_ACTIONS,
    Event,
    History,
    State,
    Violation,
)
from tests.support.chaos.journal import Exchange

JOB_ENDINGS = {"completed", "failed", "cancelled"}


@dataclass(frozen=True)
class GatewayMessage:
    """A message that the SMS gateway accepted."""

    phone: str
    text: str


def deletions_include_children(history: History) -> Iterator[Violation]:
    """Who deletes an account deletes all that belongs to it, with it."""
    for exchange, account, events in _changes_of_accounts(history, ENDING_ACTIONS):
        if account.data.get("mergedInto"):
            continue
        before = history.children_before(account.stream, events[0].position)
        deleted = {each.stream for each in events if each.action in ENDING_ACTIONS}
        for child in sorted(before - deleted):
            last = history.events_of_stream(child)[-1]
            detail = f"the account was deleted without its child {child}"
            yield Violation("cascade", detail, exchange, (account, last))


def restorations_include_children(history: History) -> Iterator[Violation]:
    """Who restores an account restores what was deleted with it and not changed since."""
    for exchange, account, events in _changes_of_accounts(history, {"restored"}):
        restored = {each.stream for each in events}
        for child in sorted(history.ever_children(account.stream) - restored):
            state = history.state_before(child, events[0].position)
            if state and state.is_deleted and state.event.data.get("deletedWith") == account.stream:
                detail = f"the account was restored without its child {child}"
                yield Violation("cascade", detail, exchange, (account, state.event))


def _changes_of_accounts(
    history: History, actions: set[str]
) -> Iterator[tuple[Exchange, Event, list[Event]]]:
    """Yield each such change of an account, with all events of its command."""
    for exchange in history.exchanges:
        events = history.events_of(exchange)
        # Entities of a job are changed in several transactions.
        for event in events:
            if event.kind == "account" and event.action in actions:
                near = events if exchange.answer.job is None else _with_children(events, event)
                yield exchange, event, near


def _with_children(events: list[Event], account: Event) -> list[Event]:
    return [each for each in events if account.stream in (each.stream, each.account)]


def accounts_of_children_exist(history: History) -> Iterator[Violation]:
    """At the end, what is not deleted belongs to an account that is not deleted, or to none."""
    for stream, events in history.of_stream.items():
        state = history.last_state(stream)
        if state is None or state.is_deleted or state.account is None:
            continue
        account = history.last_state(state.account)
        if account is None or account.is_deleted:
            evidence = (events[-1],) if account is None else (events[-1], account.event)
            yield Violation("orphan", f"{stream} has no account", events=evidence)


def merges_are_whole(history: History) -> Iterator[Violation]:
    """A merge deletes the other account into this one, and moves all that belonged to it."""
    for exchange in history.exchanges:
        sent, events = exchange.sent, history.events_of(exchange)
        if sent.command != "merge" or not events:
            continue
        topics = {(each.stream, each.action) for each in events}
        wanted = {(sent.stream, "merged"), *((other, "deleted") for other in sent.others)}
        if not wanted <= topics:
            yield Violation("merge", "only half of it was recorded", exchange, tuple(events))
        for other in sent.others:
            for child in sorted(history.children_before(other, events[0].position)):
                moved = [each for each in events if each.stream == child and each.is_move]
                if not moved or moved[-1].account != sent.stream:
                    evidence = tuple(moved) or (history.events_of_stream(child)[-1],)
                    yield Violation("merge", f"{child} was not moved", exchange, evidence)


def conversions_are_whole(history: History) -> Iterator[Violation]:
    """A conversion creates the entities that the lead's event and the answer name."""
    fields = {"account": "convertedAccountId", "contact": "convertedContactId"}
    for exchange in history.exchanges:
        events = history.events_of_request(exchange)
        if exchange.sent.command != "convert" or not events:
            continue
        created = {each.kind: each.stream for each in events if each.action == "created"}
        lead = [each for each in events if each.topic == "lead.converted"]
        changes = lead[0].data.get("changes", {}) if lead else {}
        for kind, name in fields.items():
            named = changes.get(name, {}).get("after")
            answered = exchange.answer.made.get(kind, created.get(kind))
            if named is None or not created.get(kind) == named == answered:
                yield Violation("convert", f"{kind}: {named}", exchange, tuple(events))


def undo_inverts(history: History) -> Iterator[Violation]:
    """An undo records the inverse of each event that it undoes, and undoes each event once."""
    undone: dict[int, Event] = {}
    by_position = {event.position: event for event in history.events}
    for event in history.events:
        if event.undoes is None:
            continue
        earlier = undone.get(event.undoes)
        # One undo may take two events: one for the status, one for the other fields.
        if earlier is not None and earlier.op != event.op:
            detail = f"{event.undoes} was undone twice"
            yield Violation("undo", detail, events=(earlier, event))
        undone[event.undoes] = event
        target = by_position.get(event.undoes)
        if target is None or target.stream != event.stream or not _is_inverse(event, target):
            evidence = (event,) if target is None else (event, target)
            yield Violation("undo", "not the inverse", events=evidence)
    for exchange in history.exchanges:
        sent, answer = exchange.sent, exchange.answer
        is_done = answer.ending == "acknowledged" and answer.job is None
        if sent.command == "undo" and is_done and not history.events_of_request(exchange):
            targets = history.events_of_command(sent.undoes)
            at = (answer.position or 0) + 1
            if not all(_is_undone(history, target, at) for target in targets):
                detail = "acknowledged, nothing recorded, and not undone before"
                yield Violation("undo", detail, exchange, tuple(targets))


def _is_undone(history: History, target: Event, before: int) -> bool:
    """Whether the entity was already in the state that undoing the event leads to."""
    state = history.state_before(target.stream, before)
    assert state is not None
    if target.action in BEGINNING_ACTIONS or target.action == "restored":
        return state.is_deleted
    if target.action in ENDING_ACTIONS:
        return not state.is_deleted
    return all(
        state.fields.get(name) == value for name, value in _changed_to(target, "before").items()
    )


def _is_inverse(event: Event, target: Event) -> bool:
    if target.action in BEGINNING_ACTIONS or target.action == "restored":
        return event.action in ENDING_ACTIONS
    if target.action in ENDING_ACTIONS:
        return event.action == "restored"
    after = _changed_to(event, "after")
    before = _changed_to(target, "before")
    return all(after[name] == before.get(name) for name in after)


def _changed_to(event: Event, which: str) -> dict[str, object]:
    if event.action in STATUS_ACTIONS:
        return {STATUS_ACTIONS[event.action]: event.data.get(which)}
    return {name: change[which] for name, change in event.data.get("changes", {}).items()}


def bulk_changes_are_as_reported(history: History) -> Iterator[Violation]:
    """A bulk change has changed the entities that its answer says, and no others."""
    for exchange in history.exchanges:
        sent, answer = exchange.sent, exchange.answer
        if sent.command != "bulk" or answer.ending != "acknowledged" or answer.job is not None:
            continue
        changed = defaultdict[str, list[Event]](list)
        for event in history.events_of_request(exchange):
            if is_of_entity(sent, OF_BULK[sent.change], [event.stream], event):
                changed[event.stream].append(event)
        if set(answer.outcomes) != set(sent.others):
            yield Violation("bulk", "not one outcome for each entity", exchange)
        for stream, version in answer.outcomes.items():
            events = changed.get(stream, [])
            state = history.state_at(stream, version)
            if version and (state is None or not _has_change(exchange, state)):
                yield Violation("bulk", f"{stream} was not changed", exchange, tuple(events))
            elif not version and events:
                yield Violation("bulk", f"{stream} was changed", exchange, tuple(events))
        if sent.is_atomic and 0 in answer.outcomes.values() and changed:
            yield Violation("bulk", "atomic, and only some were changed", exchange)


def _has_change(exchange: Exchange, state: State) -> bool:
    sent = exchange.sent
    if sent.change != "set":
        return state.is_deleted == (sent.change == "delete")
    return all(state.fields.get(name) == value for name, value in sent.values.items())


def jobs_end_as_reported(history: History) -> Iterator[Violation]:
    """A job that was accepted ends once, and its counts are those of the entities it changed."""
    seen: set[str] = set()
    for exchange in history.exchanges:
        job = exchange.answer.job
        if job is None or job in seen:
            continue
        seen.add(job)
        events = history.job_events(job)
        endings = [each for each in events if each.action in JOB_ENDINGS]
        if len(endings) != 1 or endings[0].action != "completed":
            yield Violation("job", f"{job} did not complete", exchange, tuple(endings or events))
            continue
        progress = [each for each in events if each.action == "progressed"]
        if not progress:
            yield Violation("job", f"{job} reported no progress", exchange, tuple(events))
            continue
        yield from _wrong_counts(history, exchange, progress[-1])


def _wrong_counts(history: History, exchange: Exchange, progress: Event) -> Iterator[Violation]:
    counts, sent = progress.data, exchange.sent
    if counts["succeeded"] + counts["failed"] != counts["processed"]:
        yield Violation("job", "the counts do not add up", exchange, (progress,))
    changed = history.events_of_request(exchange)
    if sent.command == "import":
        created = Counter(each.data["fields"]["company"] for each in changed)
        missing = [row for row in sent.rows if row not in created]
        if len(missing) != counts["failed"] + counts.get("counts", {}).get("skipped", 0):
            yield Violation("import", f"{missing[:3]} were not created", exchange, (progress,))
    elif sent.command == "bulk":
        streams = {each.stream for each in changed if each.stream in sent.others}
        if len(streams) > counts["succeeded"]:
            detail = f"{len(streams)} were changed, {counts['succeeded']} reported"
            yield Violation("bulk", detail, exchange, (progress,))


def workspaces_are_apart(history: History) -> Iterator[Violation]:
    """A command records in its own workspace only, and reaches no entity of another one."""
    for exchange in history.exchanges:
        sent = exchange.sent
        outside = [
            event
            for event in history.events_of(exchange)
            if event.workspace != sent.workspace or not _is_linked_inside(history, event)
        ]
        if outside:
            yield Violation("workspace", "recorded in another one", exchange, tuple(outside))
        if sent.command == "intrude" and exchange.answer.ending == "acknowledged":
            yield Violation("workspace", "an entity of another one was reached", exchange)


def _is_linked_inside(history: History, event: Event) -> bool:
    account = history.events_of_stream(event.account)
    return not account or account[0].workspace == event.workspace


def check_gateway(history: History, messages: Iterable[GatewayMessage]) -> Iterator[Violation]:
    """The gateway accepted each message at most once, and every message that the log calls sent."""
    recorded = {
        each.data["fields"]["message"]: each
        for each in history.events
        if each.topic == "sms.created"
    }
    accepted = Counter(each.text for each in messages)
    phones = {each.text: each.phone for each in messages}
    for text, times in accepted.items():
        created = recorded.get(text)
        if created is None:
            yield Violation("sms", f"{text!r} was sent without a request")
        elif times > 1:
            yield Violation("sms", f"{text!r} was sent {times} times", events=(created,))
        elif created.data["fields"]["phone"] != phones[text]:
            yield Violation("sms", f"{text!r} was sent to {phones[text]}", events=(created,))
    for text, created in recorded.items():
        state = history.last_state(created.stream)
        status = state.fields.get("status") if state else None
        if status in (None, "pending"):
            yield Violation("sms", f"{text!r} was neither sent nor given up", events=(created,))
        elif status != "failed" and text not in accepted:
            yield Violation("sms", f"{text!r} is {status}, but was not sent", events=(created,))


RULES_OF_WHOLES: Sequence[Callable[[History], Iterator[Violation]]] = (
    deletions_include_children,
    restorations_include_children,
    accounts_of_children_exist,
    merges_are_whole,
    conversions_are_whole,
    undo_inverts,
    bulk_changes_are_as_reported,
    jobs_end_as_reported,
    workspaces_are_apart,
)
