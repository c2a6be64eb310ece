"""A text message that was asked for is sent."""

from __future__ import annotations

from commands.process import Command, Process, Reaction
from eventlog.reading import RecordedEvent


def react(memory: None, event: RecordedEvent) -> Reaction[None]:
    """There is nothing to remember: the message's own stream says what became of it."""
    return None, (Command("sendSms", {"smsId": event.stream_id}),)


ASKED = frozenset({"sms.created"})
PROCESS: Process[None] = Process("sms", ASKED, react, state_type=type(None), urgent=ASKED)
