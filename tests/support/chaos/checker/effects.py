"""Which events a command may record."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.chaos.checker.history import (
    BEGINNING_ACTIONS,
    ENDING_ACTIONS,
    Event,
    History,
    flatten,
)
from tests.support.chaos.journal import Exchange, SentCommand

ACTIONS_OF_ENTITY: dict[str, set[str]] = {
    "revise": {"updated", "status_changed", "stage_changed"},
    "status": {"status_changed", "stage_changed"},
    "delete": ENDING_ACTIONS,
    "restore": {"restored"},
}
"""Actions of the events that a command on one entity may record."""
AFFECTS_CHILDREN = {"delete", "restore"}
"""Commands on an account that also affect the entities that belong to it."""
CONVERTS_TO = {"account.created", "contact.created", "opportunity.created"}
OF_BULK = {"set": "revise", "delete": "delete", "restore": "restore"}
"""The command on one entity that a bulk change makes."""


def may_record(history: History, exchange: Exchange, event: Event) -> bool:
    """Whether the event is one that the command may have recorded."""
    return BY_COMMAND[exchange.sent.command](history, exchange, event)


def _create(_: History, exchange: Exchange, event: Event) -> bool:
    sent = exchange.sent
    stream = sent.stream or exchange.answer.stream
    fields = flatten(event.data.get("fields", {}))
    return (
        event.action in BEGINNING_ACTIONS
        and event.version == 1
        and event.kind == sent.kind
        and stream in (None, event.stream)
        and all(fields.get(name) == value for name, value in sent.values.items())
    )


def _entity(_: History, exchange: Exchange, event: Event) -> bool:
    sent = exchange.sent
    return is_of_entity(sent, sent.command, [sent.stream], event)


def is_of_entity(
    sent: SentCommand, command: str, streams: list[str | None] | list[str], event: Event
) -> bool:
    """Whether the event is one of the command on one of these entities or on its children."""
    if event.action not in ACTIONS_OF_ENTITY[command]:
        return False
    is_own = event.kind == sent.kind and event.stream in streams
    return is_own or (command in AFFECTS_CHILDREN and event.account in streams)


def _step(_: History, exchange: Exchange, event: Event) -> bool:
    sent = exchange.sent
    return event.stream == sent.stream and event.topic == f"{sent.kind}.{sent.change}"


def _convert(_: History, exchange: Exchange, event: Event) -> bool:
    if event.topic == "lead.converted":
        return event.stream == exchange.sent.stream
    return event.topic in CONVERTS_TO


def _sms(_: History, exchange: Exchange, event: Event) -> bool:
    fields = event.data.get("fields", {})
    wanted = exchange.sent.values
    return event.topic == "sms.created" and all(
        fields.get(name) == value for name, value in wanted.items()
    )


def _merge(history: History, exchange: Exchange, event: Event) -> bool:
    sent = exchange.sent
    if event.stream == sent.stream:
        return event.topic == f"{sent.kind}.merged"
    if event.stream in sent.others:
        return event.topic == f"{sent.kind}.deleted" and event.data.get("mergedInto") == sent.stream
    accounts = {sent.stream, *sent.others}
    return event.is_move and event.account in accounts


def _undo(history: History, exchange: Exchange, event: Event) -> bool:
    """The inverse of an event of the command, or a child of one of its entities."""
    targets = history.events_of_command(exchange.sent.undoes)
    if event.undoes is not None:
        return event.undoes in {target.position for target in targets}
    return event.account in {target.stream for target in targets}


def _bulk(_: History, exchange: Exchange, event: Event) -> bool:
    sent = exchange.sent
    return is_of_entity(sent, OF_BULK[sent.change], sent.others, event)


def _import(_: History, exchange: Exchange, event: Event) -> bool:
    company = event.data.get("fields", {}).get("company")
    return event.topic == "account.created" and company in exchange.sent.rows


def _nothing(_: History, exchange: Exchange, event: Event) -> bool:
    return False


BY_COMMAND: dict[str, Callable[[History, Exchange, Event], bool]] = {
    "create": _create,
    **dict.fromkeys(ACTIONS_OF_ENTITY, _entity),
    "step": _step,
    "convert": _convert,
    "sms": _sms,
    "merge": _merge,
    "undo": _undo,
    "bulk": _bulk,
    "import": _import,
    "read": _nothing,
    "intrude": _nothing,
}
