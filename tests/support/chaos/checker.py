"""What clients were told against what the log holds. Pure, and a stranger to the engine.

The rules, one function each: what was acknowledged is there once and where it was said to be; what
was refused is not there; what is unknown happened at most once; nothing is there that nobody asked
for; streams are whole and in order; and no read was older than it had to be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.chaos.history import Answer, Asked, Deed

ENDED = {"deleted", "revoked"}
BEGAN = {"created", "issued"}
ACTIONS: dict[str, set[str]] = {
    "create": BEGAN,
    "revise": {"updated", "status_changed", "stage_changed"},
    "status": {"status_changed", "stage_changed"},
    "delete": ENDED,
    "restore": {"restored"},
    "read": set(),
}
"""What the events of a command may be."""
ALWAYS_RECORDED = {"create", "revise"}
"""Clients write a text of their own each time, so these always change something."""
TAKES_OTHERS_ALONG = {"delete", "restore"}
"""An account does, with what hangs on it."""


EVENTS_SHOWN = 4
"""Of a violation's events so many are told."""


@dataclass(frozen=True)
class Event:
    """An event as it lies in the log."""

    position: int
    workspace: str
    stream: str
    version: int
    topic: str
    account: str | None
    data: dict[str, Any]
    op: str
    """The name of the deed that it came of."""

    @property
    def action(self) -> str:
        """`created` of `account.created`."""
        return self.topic.partition(".")[2]


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold, and the smallest evidence of it."""

    rule: str
    detail: str
    deed: Deed | None = None
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.rule}: {self.detail}"]
        if self.deed is not None:
            lines += [f"  asked  {self.deed.asked}", f"  told   {self.deed.answer}"]
        lines += [f"  event  {event}" for event in self.events[:EVENTS_SHOWN]]
        return "\n".join(lines)


@dataclass
class Case:
    """All there is to know, by what it is looked up by."""

    deeds: list[Deed]
    events: list[Event]
    of_op: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    of_stream: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for event in self.events:
            self.of_op[event.op].append(event)
            self.of_stream[event.stream].append(event)

    def done_by(self, deed: Deed) -> list[Event]:
        """The events of a deed, in order of position."""
        return self.of_op.get(deed.op, [])

    def life(self, stream: str) -> list[Event]:
        """The events of a stream, in order of position."""
        return self.of_stream.get(stream, [])


def check(deeds: Iterable[Deed], events: Iterable[Event]) -> list[Violation]:
    """Every rule that does not hold; none where all is well."""
    case = Case(list(deeds), sorted(events, key=lambda event: event.position))
    return [violation for rule in RULES for violation in rule(case)]


def streams_are_whole(case: Case) -> Iterator[Violation]:
    """Versions 1, 2, 3, in order of position, in one workspace; each position once."""
    taken = Counter(event.position for event in case.events)
    for event in case.events:
        if taken[event.position] > 1:
            yield Violation("position", "is taken twice", events=(event,))
    for stream, life in case.of_stream.items():
        versions = [event.version for event in life]
        if versions != list(range(1, len(life) + 1)):
            wrong = next(n for n, version in enumerate(versions) if version != n + 1)
            detail = f"stream {stream} has version {versions[wrong]} where {wrong + 1} belongs"
            yield Violation("stream", detail, events=tuple(life[max(0, wrong - 1) : wrong + 1]))
        if len({event.workspace for event in life}) > 1:
            yield Violation("stream", f"{stream} lies in two workspaces", events=tuple(life))


def nothing_comes_from_nowhere(case: Case) -> Iterator[Violation]:
    """Every event came of a deed that somebody asked for."""
    known = {deed.op for deed in case.deeds}
    for op, events in case.of_op.items():
        if op not in known:
            yield Violation("phantom", f"nobody asked for {op!r}", events=tuple(events[:2]))


def answers_are_foreseen(case: Case) -> Iterator[Violation]:
    """No answer that must never be given."""
    for deed in case.deeds:
        if deed.answer.ending == "unexpected":
            yield Violation("answer", deed.answer.detail, deed)


def what_was_refused_is_not_there(case: Case) -> Iterator[Violation]:
    """A refusal records nothing."""
    for deed in case.deeds:
        events = case.done_by(deed)
        if deed.answer.ending == "refused" and events:
            yield Violation("refused", "and recorded all the same", deed, tuple(events))


def everything_happened_at_most_once(case: Case) -> Iterator[Violation]:
    """Whatever the client was told: one attempt's events, and only of the kind it asked for."""
    for deed in case.deeds:
        events = case.done_by(deed)
        is_one = deed.asked.command == "create"
        seen = Counter((is_one or event.stream, event.topic) for event in events)
        doubled = tuple(e for e in events if seen[is_one or e.stream, e.topic] > 1)
        if doubled:
            yield Violation("doubled", "one command, the same event twice", deed, doubled)
        strange = tuple(event for event in events if not _is_of(deed.asked, deed.answer, event))
        if strange:
            yield Violation("strange", "not what was asked for", deed, strange)


def what_was_acknowledged_is_there(case: Case) -> Iterator[Violation]:
    """Once, in the stream, at the version and at the position that the client was told."""
    for deed in case.deeds:
        if deed.answer.ending != "acknowledged" or deed.asked.command == "read":
            continue
        events = case.done_by(deed)
        if events:
            yield from _contradictions(deed, events)
        elif deed.asked.command in ALWAYS_RECORDED:
            yield Violation("lost", "acknowledged and not in the log", deed)
        else:
            yield from _groundless(deed, case.life(deed.answer.stream or deed.asked.stream or ""))


def clients_see_time_go_forward(case: Case) -> Iterator[Violation]:
    """What a client did later lies at a later position."""
    last: dict[str, Deed] = {}
    for deed in case.deeds:
        if deed.answer.ending != "acknowledged" or not case.done_by(deed):
            continue
        before = last.get(deed.asked.client)
        last[deed.asked.client] = deed
        if before and (deed.answer.position or 0) <= (before.answer.position or 0):
            events = (*case.done_by(before), *case.done_by(deed))
            yield Violation("order", f"before {before.op}, which was earlier", deed, events)


def reads_are_no_older_than_they_had_to_be(case: Case) -> Iterator[Violation]:
    """A read that asked for a position shows a state that held at that position or after it."""
    for deed in case.deeds:
        if deed.asked.command == "read" and deed.answer.ending == "acknowledged":
            life = case.life(deed.asked.stream or "")
            passed = [event for event in life if event.position <= deed.asked.min_position]
            if deed.answer.version not in _visible_versions(life, len(passed)):
                evidence = tuple(life[max(0, len(passed) - 1) : len(passed) + 1])
                yield Violation("stale", "a read did not show what it had to", deed, evidence)


RULES: Sequence[Callable[[Case], Iterator[Violation]]] = (
    streams_are_whole,
    nothing_comes_from_nowhere,
    answers_are_foreseen,
    what_was_refused_is_not_there,
    everything_happened_at_most_once,
    what_was_acknowledged_is_there,
    clients_see_time_go_forward,
    reads_are_no_older_than_they_had_to_be,
)


def _is_of(asked: Asked, answer: Answer, event: Event) -> bool:
    """Whether the event is one that the command may have recorded."""
    kind = event.topic.partition(".")[0]
    stream = asked.stream or answer.stream
    if event.action not in ACTIONS[asked.command]:
        return False
    if asked.command == "create" and (event.version != 1 or asked.value not in texts(event.data)):
        return False
    is_its_own = kind == asked.kind and stream in (None, event.stream)
    is_taken_along = asked.command in TAKES_OTHERS_ALONG and event.account == asked.stream
    return is_its_own or is_taken_along


def _contradictions(deed: Deed, events: list[Event]) -> Iterator[Violation]:
    asked, answer = deed.asked, deed.answer
    own = [event for event in events if event.stream == answer.stream]
    if not own:
        yield Violation("lost", "not in the stream that was acknowledged", deed, tuple(events))
        return
    if answer.version not in (None, own[-1].version):
        yield Violation("version", f"was told {answer.version}", deed, tuple(own))
    if answer.position != events[-1].position:
        yield Violation("position", f"was told {answer.position}", deed, (events[-1],))
    if asked.expected_version not in (None, own[0].version - 1):
        yield Violation("stale", "changed another version than was meant", deed, tuple(own))
    wanted = asked.value
    if wanted is not None and not any(wanted in texts(event.data) for event in own):
        yield Violation("content", f"{wanted!r} was not written", deed, tuple(own))


def _groundless(deed: Deed, life: list[Event]) -> Iterator[Violation]:
    """It recorded nothing, so it has to have been so already, at the version that was told."""
    asked, answer = deed.asked, deed.answer
    passed = [event for event in life if event.position <= (answer.position or 0)]
    version = answer.version or asked.expected_version
    if version is not None:
        states = [life[:version]] if len(passed) >= version else []
    else:
        states = [passed[: n + 1] for n in range(len(passed))]
    if not any(_is_so(asked, state) for state in states):
        yield Violation("lost", "acknowledged, not recorded, and not so before", deed, tuple(life))


def _is_so(asked: Asked, state: list[Event]) -> bool:
    if not state:
        return False
    if asked.command == "delete":
        return state[-1].action in ENDED
    if asked.command == "restore":
        return state[-1].action not in ENDED
    return status_of(state) == asked.value


def status_of(life: list[Event]) -> str | None:
    """The status, or stage, after these events."""
    status: str | None = None
    for event in life:
        fields = event.data.get("fields", {})
        status = fields.get("status", fields.get("stage", status))
        status = event.data.get("after", status)
    return status


def _visible_versions(life: list[Event], at_least: int) -> set[int | None]:
    """What a read may show: a version from there on at which it is there; None where it is not."""
    states = [None, *life][at_least:]
    return {None if event is None or event.action in ENDED else event.version for event in states}


def texts(data: object) -> set[str]:
    """All the texts in some JSON."""
    if isinstance(data, str):
        return {data}
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return {text for each in inner for text in texts(each)}
