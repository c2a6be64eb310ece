"""Text messages: one row per message, with the status of its delivery."""

from __future__ import annotations

from projections.changes import Projection, Table
from projections.lifecycle import Lifecycle

PROJECTION = Projection(
    name="sms",
    tables=(Table("sms_messages", maps=("custom_fields",)),),
    rules=(Lifecycle("sms", "sms_messages", status="status"),),
)
