"""The rules about commands and their answers, idempotency keys, streams and reads.

An acknowledged command is recorded once, where the answer said, with all the values that it wrote;
a refused one is not recorded; an unanswered one is recorded at most once, its retries included; no
event exists without a command; streams are complete and in order; no read is older than the
position it asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tests.support.chaos.checker.effects import may_record
from tests.support.chaos.checker.history import ENDING_ACTIONS, Event, History, Violation
from tests.support.chaos.journal import Answer, Exchange, SentCommand

ALWAYS_RECORDED = {"create", "revise", "convert", "sms"}
"""Clients write a unique text each time, so these commands always record something."""
WITHOUT_ONE_ENTITY = {"read", "bulk", "import", "undo", "intrude"}
"""Commands whose effects the rules of wholes check."""
OF_PROCESSES = {"sms.status_changed", "sms.updated"}
"""Topics of events that a process records, after a command has created the entity."""
STILL_IN_FLIGHT = "E5013"
KEY_REUSED = "E2036"


def streams_are_whole(history: History) -> Iterator[Violation]:
    """A stream has versions 1, 2, 3 … in order of position, in one workspace."""
    taken = Counter(event.position for event in history.events)
    for event in history.events:
        if taken[event.position] > 1:
            yield Violation("position", "is taken twice", events=(event,))
    for stream, stream_events in history.of_stream.items():
        versions = [event.version for event in stream_events]
        if versions != list(range(1, len(stream_events) + 1)):
            wrong = next(n for n, version in enumerate(versions) if version != n + 1)
            detail = f"stream {stream} has version {versions[wrong]} where {wrong + 1} belongs"
            yield Violation(
                "stream", detail, events=tuple(stream_events[max(0, wrong - 1) : wrong + 1])
            )
        if len({event.workspace for event in stream_events}) > 1:
            yield Violation(
                "stream", f"{stream} lies in two workspaces", events=tuple(stream_events)
            )


def events_have_commands(history: History) -> Iterator[Violation]:
    """Every event was recorded by a command that a client sent, or by the sender of a message."""
    known = {exchange.op for exchange in history.exchanges}
    for op, events in history.of_op.items():
        if op == "":
            events = [each for each in events if each.topic not in OF_PROCESSES]
        if op not in known and events:
            yield Violation("phantom", f"no client sent {op!r}", events=tuple(events[:2]))


def answers_are_expected(history: History) -> Iterator[Violation]:
    """No client received an answer that must never be given."""
    for exchange in history.exchanges:
        if exchange.answer.ending == "unexpected":
            yield Violation("answer", exchange.answer.detail, exchange)


def refused_commands_record_nothing(history: History) -> Iterator[Violation]:
    """A refused command records nothing."""
    for exchange in history.exchanges:
        events = history.events_of(exchange)
        if exchange.answer.ending == "refused" and events:
            yield Violation("refused", "but recorded", exchange, tuple(events))


def commands_happen_at_most_once(history: History) -> Iterator[Violation]:
    """A request records each event once, in one of its attempts, and only events of its command."""
    for attempts in history.attempts.values():
        recorded = [each for each in attempts if history.events_of(each)]
        if len(recorded) > 1:
            events = tuple(history.events_of(each)[0] for each in recorded)
            yield Violation("doubled", "one request was executed twice", recorded[-1], events)
    for exchange in history.exchanges:
        events_of_op = history.events_of(exchange)
        doubled = tuple(_doubled(exchange.sent, events_of_op))
        if doubled:
            yield Violation("doubled", "one command, the same event twice", exchange, doubled)
        strange = tuple(each for each in events_of_op if not may_record(history, exchange, each))
        if strange:
            yield Violation("strange", "an event that the command cannot record", exchange, strange)


def _doubled(sent: SentCommand, events: list[Event]) -> Iterator[Event]:
    def identity(event: Event) -> object:
        if sent.command in ("create", "sms"):
            return event.topic
        if sent.command == "import":
            return event.data.get("fields", {}).get("company")
        return event.undoes, event.stream, event.topic

    seen = Counter(map(identity, events))
    return (event for event in events if seen[identity(event)] > 1)


def acknowledged_commands_are_recorded(history: History) -> Iterator[Violation]:
    """An acknowledged command is recorded in the stream, version and position of its answer."""
    for exchange in history.exchanges:
        sent, answer = exchange.sent, exchange.answer
        if answer.ending != "acknowledged" or sent.command in WITHOUT_ONE_ENTITY:
            continue
        events = history.events_of_request(exchange)
        if events:
            yield from _contradictions(history, exchange, events)
        elif sent.command in ALWAYS_RECORDED:
            yield Violation("lost", "acknowledged and not in the log", exchange)
        else:
            yield from _check_unchanged(history, exchange)


def _contradictions(
    history: History, exchange: Exchange, events: list[Event]
) -> Iterator[Violation]:
    sent, answer = exchange.sent, exchange.answer
    stream = answer.stream or sent.stream
    if sent.command == "sms" and stream is None:
        stream = events[0].stream
    own = [event for event in events if event.stream == stream]
    if not own:
        yield Violation("lost", "not in the stream that was acknowledged", exchange, tuple(events))
        return
    if answer.version not in (None, own[-1].version):
        yield Violation("version", f"answered {answer.version}", exchange, tuple(own))
    if answer.position != events[-1].position:
        yield Violation("position", f"answered {answer.position}", exchange, (events[-1],))
    if sent.expected_version not in (None, own[0].version - 1):
        yield Violation("stale", "changed another version than expected", exchange, tuple(own))
    state = history.state_at(own[-1].stream, own[-1].version)
    written = {} if state is None else state.fields
    wrong = {name: value for name, value in sent.values.items() if written.get(name) != value}
    if wrong:
        yield Violation("content", f"{wrong} was not written", exchange, tuple(own))


def _check_unchanged(history: History, exchange: Exchange) -> Iterator[Violation]:
    """A command that recorded nothing must have found its result already in place."""
    sent, answer = exchange.sent, exchange.answer
    stream = answer.stream or sent.stream or ""
    stream_events = history.events_of_stream(stream)
    passed = sum(event.position <= (answer.position or 0) for event in stream_events)
    version = answer.version or sent.expected_version
    versions = range(1, passed + 1) if version is None else [version] * (passed >= version)
    if not any(_is_in_place(history, sent, stream, each) for each in versions):
        detail = "acknowledged, not recorded, and not in place before"
        yield Violation("lost", detail, exchange, tuple(stream_events))


def _is_in_place(history: History, sent: SentCommand, stream: str, version: int) -> bool:
    state = history.state_at(stream, version)
    if state is None:
        return False
    if sent.command == "delete":
        return state.is_deleted
    if sent.command == "restore":
        return not state.is_deleted
    if sent.command == "merge":
        others = [history.last_state(other) for other in sent.others]
        return all(each and each.event.data.get("mergedInto") == stream for each in others)
    return all(state.fields.get(name) == value for name, value in sent.values.items())


def repeated_requests_get_the_first_answer(history: History) -> Iterator[Violation]:
    """After an acknowledged attempt, every later one with the same key gets the same answer.

    A request with another body is refused. An attempt that finds the first one still in flight, or
    the database not available, may say so.
    """
    for attempts in history.attempts.values():
        first: Exchange | None = None
        for exchange in attempts:
            answer = exchange.answer
            if first is not None and not _is_repeated(exchange, first.answer):
                yield Violation("key", f"the first answer was {first.answer}", exchange)
            elif exchange.sent.is_reuse and answer.ending == "acknowledged":
                yield Violation("key", "another body under a used key was accepted", exchange)
            if answer.ending == "acknowledged" and first is None:
                first = exchange


def _is_repeated(exchange: Exchange, first: Answer) -> bool:
    answer = exchange.answer
    if exchange.sent.is_reuse:
        return answer.ending != "acknowledged"
    if answer.ending == "acknowledged":
        same = ("stream", "version", "position", "command_id", "job", "made", "outcomes")
        return answer.is_replayed and all(
            getattr(answer, name) == getattr(first, name) for name in same
        )
    is_refused = answer.ending == "refused" and not answer.detail.startswith(
        (STILL_IN_FLIGHT, "E3", "E4", "upload")
    )
    return not is_refused


def later_commands_have_later_positions(history: History) -> Iterator[Violation]:
    """A client's later command has the later position."""
    last: dict[str, Exchange] = {}
    for exchange in history.exchanges:
        if exchange.answer.ending != "acknowledged" or not history.events_of(exchange):
            continue
        before = last.get(exchange.sent.client)
        last[exchange.sent.client] = exchange
        if before and (exchange.answer.position or 0) <= (before.answer.position or 0):
            events = (*history.events_of(before), *history.events_of(exchange))
            yield Violation("order", f"before {before.op}, which was earlier", exchange, events)


def reads_are_current(history: History) -> Iterator[Violation]:
    """A read that asked for a position shows the state at that position or a later one."""
    for exchange in history.exchanges:
        if exchange.sent.command == "read" and exchange.answer.ending == "acknowledged":
            stream_events = history.events_of_stream(exchange.sent.stream)
            passed = [
                event for event in stream_events if event.position <= exchange.sent.min_position
            ]
            if exchange.answer.version not in _visible_versions(stream_events, len(passed)):
                evidence = tuple(stream_events[max(0, len(passed) - 1) : len(passed) + 1])
                yield Violation("stale", "older than the position asked for", exchange, evidence)


def _visible_versions(stream_events: list[Event], at_least: int) -> set[int | None]:
    """Versions that a read may show after `at_least` events; None for a deleted entity."""
    states = [None, *stream_events][at_least:]
    return {
        None if event is None or event.action in ENDING_ACTIONS else event.version
        for event in states
    }


RULES: Sequence[Callable[[History], Iterator[Violation]]] = (
    streams_are_whole,
    events_have_commands,
    answers_are_expected,
    refused_commands_record_nothing,
    commands_happen_at_most_once,
    acknowledged_commands_are_recorded,
    repeated_requests_get_the_first_answer,
    later_commands_have_later_positions,
    reads_are_current,
)
