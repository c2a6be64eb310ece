"""Opportunity: a deal that may be won or lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import ClassVar

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
from domain.shared.fields import Choice, Date, Fields, Money, Name
from domain.shared.properties import optional, required


class Stage(Choice):
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
    """A deal moves freely between the open stages; won is final, a lost deal can be reopened.

    A deal may belong to no account, for as long as its account is not known.

    Decisions, and when they are refused:

    create: a field is invalid (`InvalidFields`).
    revise, change_status: as create, or `TRANSITIONS` lacks the new stage (`TransitionRefused`).
    delete, restore, undo_delete: never. Repeating one records nothing.
    begin_move, complete_move: never. A merge of accounts moves their opportunities by both.
    revert: a field is no longer valid (`InvalidFields`). Used by undo; ignores `TRANSITIONS`.

    A deleted deal refuses revise, change_status, begin_move and revert (`IsDeleted`). A decision
    dated before the last event is refused (`OccurredTooEarly`). Commands also refuse an account
    that does not exist or is deleted (`AccountUnavailable`), and an assignee who is not a member of
    the workspace (`NotAMember`).
    """

    TOPIC = "opportunity"
    KIND = "opportunity"
    PLURAL = "opportunities"
    FIELDS = OpportunityFields
    IS_IMPORTABLE = True
    STATUS_FIELD = "stage"
    TRANSITIONS: ClassVar[Mapping[Stage, frozenset[Stage]]] = {
        **{stage: frozenset(Stage) - {stage} for stage in OPEN_STAGES},
        Stage.LOST: OPEN_STAGES,
    }
    BELONGS_TO_ACCOUNT = True

    name = required(str)
    stage = required(str)
    value = optional(Decimal)
    engaged_on = optional(date.fromisoformat)
    expected_close_on = optional(date.fromisoformat)
    closed_on = optional(date.fromisoformat)

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
        """Whether the deal is neither won nor lost, nor deleted."""
        return not self.is_deleted and self.stage in OPEN_STAGES
