"""Compare the answers that clients received with the log. Pure; shares no code with the engine.

The rules, one function each: an acknowledged command is recorded once, where the answer said; a
refused one is not recorded; an unanswered one is recorded at most once; no event exists without a
command; streams are complete and in order; no read is older than the position it asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.chaos.journal import Answer, Exchange, SentCommand

ENDING_ACTIONS = {"deleted", "revoked"}
BEGINNING_ACTIONS = {"created", "issued"}
ACTIONS: dict[str, set[str]] = {
    "create": BEGINNING_ACTIONS,
    "revise": {"updated", "status_changed", "stage_changed"},
    "status": {"status_changed", "stage_changed"},
    "delete": ENDING_ACTIONS,
    "restore": {"restored"},
    "read": set(),
}
"""Actions of the events that a command may record."""
ALWAYS_RECORDED = {"create", "revise"}
"""Clients write a unique text each time, so these commands always record something."""
AFFECTS_CHILDREN = {"delete", "restore"}
"""Commands on an account that also affect the entities that belong to it."""

EVENTS_SHOWN = 4
"""Maximum number of events shown of a violation."""


@dataclass(frozen=True)
class Event:
    """An event of the log."""

    position: int
    workspace: str
    stream: str
    version: int
    topic: str
    account: str | None
    data: dict[str, Any]
    op: str
    """The name of the command that recorded it."""

    @property
    def action(self) -> str:
        """`created` of `account.created`."""
        return self.topic.partition(".")[2]


@dataclass(frozen=True)
class Violation:
    """A broken rule and the smallest evidence of it."""

    rule: str
    detail: str
    exchange: Exchange | None = None
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.rule}: {self.detail}"]
        if self.exchange is not None:
            lines += [f"  sent    {self.exchange.sent}", f"  answer  {self.exchange.answer}"]
        lines += [f"  event   {event}" for event in self.events[:EVENTS_SHOWN]]
        return "\n".join(lines)


@dataclass
class History:
    """All exchanges and events, with indexes by command and by stream."""

    exchanges: list[Exchange]
    events: list[Event]
    of_op: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    of_stream: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for event in self.events:
            self.of_op[event.op].append(event)
            self.of_stream[event.stream].append(event)

    def events_of(self, exchange: Exchange) -> list[Event]:
        """The events of a command, in order of position."""
        return self.of_op.get(exchange.op, [])

    def events_of_stream(self, stream: str) -> list[Event]:
        """The events of a stream, in order of position."""
        return self.of_stream.get(stream, [])


def check(exchanges: Iterable[Exchange], events: Iterable[Event]) -> list[Violation]:
    """Return all violations; an empty list if every rule holds."""
    history = History(list(exchanges), sorted(events, key=lambda event: event.position))
    return [violation for rule in RULES for violation in rule(history)]


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
    """Every event was recorded by a command that a client sent."""
    known = {exchange.op for exchange in history.exchanges}
    for op, events in history.of_op.items():
        if op not in known:
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
    """A command records each event once, and only events of its action, whatever the answer."""
    for exchange in history.exchanges:
        events = history.events_of(exchange)
        is_one = exchange.sent.command == "create"
        seen = Counter((is_one or event.stream, event.topic) for event in events)
        doubled = tuple(e for e in events if seen[is_one or e.stream, e.topic] > 1)
        if doubled:
            yield Violation("doubled", "one command, the same event twice", exchange, doubled)
        strange = tuple(
            event for event in events if not _is_of(exchange.sent, exchange.answer, event)
        )
        if strange:
            yield Violation("strange", "an event that the command cannot record", exchange, strange)


def acknowledged_commands_are_recorded(history: History) -> Iterator[Violation]:
    """An acknowledged command is recorded in the stream, version and position of its answer."""
    for exchange in history.exchanges:
        if exchange.answer.ending != "acknowledged" or exchange.sent.command == "read":
            continue
        events = history.events_of(exchange)
        if events:
            yield from _contradictions(exchange, events)
        elif exchange.sent.command in ALWAYS_RECORDED:
            yield Violation("lost", "acknowledged and not in the log", exchange)
        else:
            yield from _check_unchanged(
                exchange,
                history.events_of_stream(exchange.answer.stream or exchange.sent.stream or ""),
            )


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
            stream_events = history.events_of_stream(exchange.sent.stream or "")
            passed = [
                event for event in stream_events if event.position <= exchange.sent.min_position
            ]
            if exchange.answer.version not in _visible_versions(stream_events, len(passed)):
                evidence = tuple(stream_events[max(0, len(passed) - 1) : len(passed) + 1])
                yield Violation("stale", "older than the position asked for", exchange, evidence)


RULES: Sequence[Callable[[History], Iterator[Violation]]] = (
    streams_are_whole,
    events_have_commands,
    answers_are_expected,
    refused_commands_record_nothing,
    commands_happen_at_most_once,
    acknowledged_commands_are_recorded,
    later_commands_have_later_positions,
    reads_are_current,
)


def _is_of(sent: SentCommand, answer: Answer, event: Event) -> bool:
    """Whether the event is one that the command may have recorded."""
    kind = event.topic.partition(".")[0]
    stream = sent.stream or answer.stream
    if event.action not in ACTIONS[sent.command]:
        return False
    if sent.command == "create" and (event.version != 1 or sent.value not in texts(event.data)):
        return False
    is_of_entity = kind == sent.kind and stream in (None, event.stream)
    is_of_child = sent.command in AFFECTS_CHILDREN and event.account == sent.stream
    return is_of_entity or is_of_child


def _contradictions(exchange: Exchange, events: list[Event]) -> Iterator[Violation]:
    sent, answer = exchange.sent, exchange.answer
    own = [event for event in events if event.stream == answer.stream]
    if not own:
        yield Violation("lost", "not in the stream that was acknowledged", exchange, tuple(events))
        return
    if answer.version not in (None, own[-1].version):
        yield Violation("version", f"answered {answer.version}", exchange, tuple(own))
    if answer.position != events[-1].position:
        yield Violation("position", f"answered {answer.position}", exchange, (events[-1],))
    if sent.expected_version not in (None, own[0].version - 1):
        yield Violation("stale", "changed another version than expected", exchange, tuple(own))
    wanted = sent.value
    if wanted is not None and not any(wanted in texts(event.data) for event in own):
        yield Violation("content", f"{wanted!r} was not written", exchange, tuple(own))


def _check_unchanged(exchange: Exchange, stream_events: list[Event]) -> Iterator[Violation]:
    """A command that recorded nothing must have found its result already in place."""
    sent, answer = exchange.sent, exchange.answer
    passed = [event for event in stream_events if event.position <= (answer.position or 0)]
    version = answer.version or sent.expected_version
    if version is not None:
        states = [stream_events[:version]] if len(passed) >= version else []
    else:
        states = [passed[: n + 1] for n in range(len(passed))]
    if not any(_is_in_place(sent, state) for state in states):
        yield Violation(
            "lost",
            "acknowledged, not recorded, and not in place before",
            exchange,
            tuple(stream_events),
        )


def _is_in_place(sent: SentCommand, state: list[Event]) -> bool:
    if not state:
        return False
    if sent.command == "delete":
        return state[-1].action in ENDING_ACTIONS
    if sent.command == "restore":
        return state[-1].action not in ENDING_ACTIONS
    return status_of(state) == sent.value


def status_of(stream_events: list[Event]) -> str | None:
    """Return the status, or stage, after these events."""
    status: str | None = None
    for event in stream_events:
        fields = event.data.get("fields", {})
        status = fields.get("status", fields.get("stage", status))
        status = event.data.get("after", status)
    return status


def _visible_versions(stream_events: list[Event], at_least: int) -> set[int | None]:
    """Versions that a read may show after `at_least` events; None for a deleted entity."""
    states = [None, *stream_events][at_least:]
    return {
        None if event is None or event.action in ENDING_ACTIONS else event.version
        for event in states
    }


def texts(data: object) -> set[str]:
    """Return all texts in a JSON value."""
    if isinstance(data, str):
        return {data}
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return {text for each in inner for text in texts(each)}
