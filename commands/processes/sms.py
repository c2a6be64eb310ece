"""Send each requested text message."""

from __future__ import annotations

from commands.process import Command, Process, Reaction
from eventlog.reading import RecordedEvent


def react(state: None, event: RecordedEvent) -> Reaction[None]:
    """Send the message. No state is needed, because the message's stream has its status."""
    return None, (Command("sendSms", {"smsId": event.stream_id}),)


REQUESTED = frozenset({"sms.created"})
PROCESS: Process[None] = Process("sms", REQUESTED, react, state_type=type(None), urgent=REQUESTED)
