"""Notify the lead of a confirmed appointment. A delivered message marks a new lead as contacted."""

from __future__ import annotations

from dataclasses import dataclass

from commands.process import Command, Process, Reaction, command_id
from eventlog.reading import RecordedEvent

NAME = "booking"


@dataclass(frozen=True)
class MessageRequested:
    """A message was requested. Its id is that of the command."""


def react(state: MessageRequested | None, event: RecordedEvent) -> Reaction[MessageRequested]:
    """Request a message; when it is delivered, mark the lead as contacted."""
    if event.topic == "appointment.confirmed" and event.data["notify"]:
        command = Command("tellConfirmed", {"appointmentId": event.stream_id})
        return MessageRequested(), (command,)
    if state and event.data.get("after") == "delivered":
        return None, (Command("contactLead", {"smsId": event.stream_id}),)
    return state, ()


def key(event: RecordedEvent) -> str:
    """The id of the message, which is known before the message exists."""
    is_request = event.topic == "appointment.confirmed"
    return str(command_id(NAME, event)) if is_request else event.stream_id


PROCESS = Process(
    NAME, frozenset({"appointment.confirmed", "sms.status_changed"}), react, MessageRequested, key
)
