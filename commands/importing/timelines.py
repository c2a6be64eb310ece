"""When what a row tells took place: most rows are one fact, a closed deal is two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from commands.importing.cells import midnight
from domain.opportunity import OPEN_STAGES, Opportunity, Stage

ENGAGED, CLOSED, STAGE = "engagedOn", "closedOn", "stage"
KNOWN_AT_CLOSE = frozenset({STAGE, CLOSED, "value"})
"""What nobody knew before the deal was closed: how it ended, when, and what it was worth."""


@dataclass(frozen=True)
class TimelineStep:
    """Fields that come to be set at one time; None is the time of the import.

    `dated_by` is the field that gave the time, `remark` a code and a sentence for the report.
    """

    fields: Mapping[str, Any]
    at: datetime | None
    dated_by: str = "occurredAt"
    remark: tuple[str, str] | None = None


def timeline(
    kind: str, fields: Mapping[str, Any], occurred_at: datetime | None
) -> list[TimelineStep]:
    """The steps in which an entity of this kind came to have these fields."""
    if kind == Opportunity.KIND:
        return _deal(fields, occurred_at)
    return [TimelineStep(fields, occurred_at)]


def _deal(fields: Mapping[str, Any], occurred_at: datetime | None) -> list[TimelineStep]:
    """A deal is created when it was engaged, and won or lost when it was closed (UTC midnight)."""
    engaged, closed = fields.get(ENGAGED), fields.get(CLOSED)
    start = occurred_at or _day(engaged)
    open_stage = Stage.ENGAGING if engaged else Stage.PROSPECTING
    stage = fields.get(STAGE, open_stage)
    if stage in OPEN_STAGES:
        return [TimelineStep({**fields, STAGE: stage}, start, ENGAGED)]
    first = {name: value for name, value in fields.items() if name not in KNOWN_AT_CLOSE}
    last = {name: value for name, value in fields.items() if name in KNOWN_AT_CLOSE}
    return [
        TimelineStep(
            {**first, STAGE: open_stage}, start or _day(closed), ENGAGED, _no_start(start)
        ),
        TimelineStep(last, _day(closed), CLOSED, _no_end(closed)),
    ]


def _day(day: date | None) -> datetime | None:
    return midnight(day) if day else None


def _no_start(start: datetime | None) -> tuple[str, str] | None:
    if start:
        return None
    return "no_engage_date", "The deal is closed but has no engage date: taken as closed at once."


def _no_end(closed: date | None) -> tuple[str, str] | None:
    if closed:
        return None
    return "no_close_date", "The deal is closed but has no close date: taken as closed today."
