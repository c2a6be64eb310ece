"""Text messages: one row per message, with the status of its delivery."""

from __future__ import annotations

from projections.changes import Projection, Table
from projections.lifecycle import lifecycle

PROJECTION = Projection(
    name="sms",
    tables=(Table("sms_messages", maps=("custom_fields",)),),
    handlers=lifecycle("sms", "sms_messages", status="status"),
)
