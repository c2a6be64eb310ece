"""Whoever booked is told that the appointment is confirmed; a new lead is contacted by that."""

from __future__ import annotations

from dataclasses import dataclass

from commands.process import Command, Process, Reaction, command_id
from eventlog.reading import RecordedEvent

NAME = "booking"


@dataclass(frozen=True)
class MessageRequested:
    """A message is on its way. It is called as the command that asked for it."""


def react(memory: MessageRequested | None, event: RecordedEvent) -> Reaction[MessageRequested]:
    """First the message; when it is delivered, the lead."""
    if event.topic == "appointment.confirmed" and event.data["notify"]:
        return MessageRequested(), (Command("tellConfirmed", {"appointmentId": event.stream_id}),)
    if memory and event.data.get("after") == "delivered":
        return None, (Command("contactLead", {"smsId": event.stream_id}),)
    return memory, ()


def key(event: RecordedEvent) -> str:
    """The message, before there is one too."""
    is_first = event.topic == "appointment.confirmed"
    return str(command_id(NAME, event)) if is_first else event.stream_id


PROCESS = Process(
    NAME, frozenset({"appointment.confirmed", "sms.status_changed"}), react, MessageRequested, key
)
