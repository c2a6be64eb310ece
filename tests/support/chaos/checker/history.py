"""Exchanges and events with their indexes, and the state of an entity after each event."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.support.chaos.journal import Exchange

ENDING_ACTIONS = {"deleted", "revoked"}
BEGINNING_ACTIONS = {"created", "issued"}
STATUS_ACTIONS = {"status_changed": "status", "stage_changed": "stage"}
"""The field that an event of this action changes."""
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
    """The name of the command that recorded it; empty for an event of a process."""
    undoes: int | None = None
    """The position of the event that it undoes."""

    @property
    def kind(self) -> str:
        """`account` of `account.created`."""
        return self.topic.partition(".")[0]

    @property
    def action(self) -> str:
        """`created` of `account.created`."""
        return self.topic.partition(".")[2]

    @property
    def is_move(self) -> bool:
        """Whether it moves an entity from one account to another."""
        return bool(self.data.get("movedTo") or self.data.get("movedFrom"))


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


@dataclass(frozen=True)
class State:
    """The state of an entity after an event."""

    fields: dict[str, Any]
    """By wire name; custom fields as `customFields.<key>`."""
    account: str | None
    is_deleted: bool
    event: Event


@dataclass
class History:
    """All exchanges and events, with indexes by command, by request and by stream.

    A request has one command for each attempt; its attempts share an idempotency key.
    """

    exchanges: list[Exchange]
    events: list[Event]
    of_op: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    of_stream: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    attempts: dict[str, list[Exchange]] = field(default_factory=lambda: defaultdict(list))
    """By request; in the order of sending."""
    request_of: dict[str, str] = field(default_factory=dict)
    """By command."""
    _of_request: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    _states: dict[str, list[State]] = field(default_factory=lambda: defaultdict(list))
    _children: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for exchange in self.exchanges:
            self.request_of[exchange.op] = exchange.sent.request
            self.attempts[exchange.sent.request].append(exchange)
        for event in self.events:
            self.of_op[event.op].append(event)
            self._of_request[self.request_of.get(event.op, event.op)].append(event)
            if event.kind == "job":
                continue
            self.of_stream[event.stream].append(event)
            if event.account is not None:
                self._children[event.account].add(event.stream)
            states = self._states[event.stream]
            states.append(_after(states[-1] if states else None, event))

    def events_of(self, exchange: Exchange) -> list[Event]:
        """The events of a command, without those of its job, in order of position."""
        return [event for event in self.of_op.get(exchange.op, []) if event.kind != "job"]

    def events_of_request(self, exchange: Exchange) -> list[Event]:
        """The events of all attempts of a request."""
        return self.events_of_command(exchange.op)

    def events_of_command(self, op: str) -> list[Event]:
        """The events of all attempts of the request that this command is an attempt of."""
        found = self._of_request.get(self.request_of.get(op, op), [])
        return [event for event in found if event.kind != "job"]

    def events_of_stream(self, stream: str | None) -> list[Event]:
        """The events of a stream, in order of position."""
        return self.of_stream.get(stream or "", [])

    def job_events(self, job: str) -> list[Event]:
        """The events of a job, in order of position."""
        return [event for event in self.events if event.kind == "job" and event.stream == job]

    def state_at(self, stream: str, version: int) -> State | None:
        """The entity's state after the event of this version, None if there is none."""
        states = self._states.get(stream, [])
        return states[version - 1] if 0 < version <= len(states) else None

    def state_before(self, stream: str, position: int) -> State | None:
        """The entity's state before the event at this position, None if it did not exist."""
        states = self._states.get(stream, [])
        number = bisect_left(states, position, key=lambda state: state.event.position)
        return states[number - 1] if number else None

    def last_state(self, stream: str) -> State | None:
        """The entity's state at the end of the log, None if it does not exist."""
        states = self._states.get(stream, [])
        return states[-1] if states else None

    def ever_children(self, account: str) -> set[str]:
        """The entities that belonged to the account at any time."""
        return self._children.get(account, set())

    def children_before(self, account: str, position: int) -> set[str]:
        """The entities of the account that were not deleted before this position."""
        states = {each: self.state_before(each, position) for each in self.ever_children(account)}
        return {
            stream
            for stream, state in states.items()
            if state is not None and state.account == account and not state.is_deleted
        }


def flatten(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with the custom ones as `customFields.<key>`."""
    flat = {name: value for name, value in fields.items() if name != "customFields"}
    custom = fields.get("customFields") or {}
    return {**flat, **{f"customFields.{key}": value for key, value in custom.items()}}


def _after(before: State | None, event: Event) -> State:
    action, data = event.action, event.data
    fields = dict(before.fields) if before else {}
    account = before.account if before else event.account
    is_deleted = before.is_deleted if before else False
    if action in BEGINNING_ACTIONS or action == "restored":
        fields, account, is_deleted = flatten(data.get("fields", {})), event.account, False
    elif action in ENDING_ACTIONS:
        is_deleted = True
    elif action in STATUS_ACTIONS:
        fields[STATUS_ACTIONS[action]] = data.get("after")
    for name, change in data.get("changes", {}).items():
        fields[name] = change["after"]
    present = {name: value for name, value in fields.items() if value is not None}
    return State(present, account, is_deleted, event)
