"""Compare the answers that clients received with the log. Pure; shares no code with the engine.

- history: exchanges and events with their indexes, and the state of an entity after each event.
- effects: which events a command may record, and which it must have recorded.
- rules: the rules about commands, keys, streams and reads.
- wholes: the rules about what several entities have in common: accounts and the entities that
  belong to them, undo, bulk changes, imports, workspaces, messages at the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.chaos.checker.history import Event, History, Violation
from tests.support.chaos.checker.rules import RULES
from tests.support.chaos.checker.wholes import RULES_OF_WHOLES, GatewayMessage, check_gateway
from tests.support.chaos.journal import Exchange


def check(
    exchanges: Iterable[Exchange],
    events: Iterable[Event],
    messages: Iterable[GatewayMessage] | None = None,
) -> list[Violation]:
    """Return all violations; an empty list if every rule holds.

    messages: those that the SMS gateway accepted; None if there was none.
    """
    history = History(list(exchanges), sorted(events, key=lambda event: event.position))
    found = [violation for rule in (*RULES, *RULES_OF_WHOLES) for violation in rule(history)]
    return found if messages is None else [*found, *check_gateway(history, messages)]
