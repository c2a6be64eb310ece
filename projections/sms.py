"""Text messages: one row a message, with what became of it."""

from __future__ import annotations

from projections.changes import Projection, Table
from projections.lifecycle import lifecycle

PROJECTION = Projection(
    name="sms",
    tables=(Table("sms_messages", maps=("custom_fields",)),),
    handlers=lifecycle("sms", "sms_messages", status="status"),
)
