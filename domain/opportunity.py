"""Opportunity: a deal that may be won or lost."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from eventsourcing.domain import AggregateEvent
from pydantic import Field

from domain.shared.entity import (
    Entity,
    EntityCreated,
    EntityDeleted,
    EntityRestored,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import Date, Fields, Money, Name


class Stage(StrEnum):
    PROSPECTING = "prospecting"
    ENGAGING = "engaging"
    PROPOSAL = "proposal"
    NEGOTIATING = "negotiating"
    WON = "won"
    LOST = "lost"


OPEN_STAGES = frozenset(Stage) - {Stage.WON, Stage.LOST}


class OpportunityFields(Fields):
    name: Name = Field(examples=["Renewal 2027"])
    stage: Stage = Stage.PROSPECTING
    value: Money | None = None
    engaged_on: Date | None = None
    expected_close_on: Date | None = None
    closed_on: Date | None = None


class Opportunity(Entity):
    """A deal moves freely while it is open; won is final, lost can be reopened.

    It usually hangs on an account; one whose account is not known yet may stand alone.
    """

    TOPIC = "opportunity"
    KIND = "opportunity"
    PLURAL = "opportunities"
    FIELDS = OpportunityFields
    STATUS_FIELD = "stage"
    TRANSITIONS: ClassVar[Any] = {
        **{stage: frozenset(Stage) - {stage} for stage in OPEN_STAGES},
        Stage.LOST: OPEN_STAGES,
    }
    BELONGS_TO_ACCOUNT = True

    class Event(AggregateEvent): ...

    class Created(Event, EntityCreated):
        TOPIC = "opportunity.created"

    class Updated(Event, EntityUpdated):
        TOPIC = "opportunity.updated"

    class StatusChanged(Event, EntityStatusChanged):
        TOPIC = "opportunity.stage_changed"

    class Deleted(Event, EntityDeleted):
        TOPIC = "opportunity.deleted"

    class Restored(Event, EntityRestored):
        TOPIC = "opportunity.restored"

    @property
    def is_open(self) -> bool:
        """Whether it is still to be won or lost."""
        return not self.is_deleted and self.status in OPEN_STAGES
