"""/api/proposals, with the steps that a proposal goes through."""

from __future__ import annotations

from datetime import datetime

from api.entities.actions import EntityAction, Given, Nothing, add_action_routes
from api.entities.routes import entity_routes
from api.http.openapi import EXAMPLE_ID, EXAMPLE_TIME
from domain.proposal import Proposal
from domain.shared.fields import Date, Email, Line, Money, Name, Text

EXAMPLE = {"title": "Renewal 2027", "value": "48000.00", "accountId": EXAMPLE_ID}


class SendProposal(Given):
    """To whom it goes."""

    to: Email


class DeclineProposal(Given):
    """Why they do not want it."""

    reason: Line | None = None


class Revision(Given):
    """What it says from now on; what is left out stays, null takes away."""

    title: Name | None = None
    body: Text | None = None
    value: Money | None = None
    valid_until: Date | None = None


def _redraft(proposal: Proposal, given: Revision, at: datetime) -> None:
    said = given.model_dump(mode="json", by_alias=True, exclude_unset=True)
    proposal.redraft(said, at=at)


ROUTER = entity_routes(Proposal, example=EXAMPLE, reads=("accounts",))

add_action_routes(
    ROUTER,
    Proposal,
    EntityAction(
        name="send",
        summary="Send a proposal: what it says stays so until it is revised",
        decide=lambda proposal, given, at: proposal.send(given.to, at=at),
        given=SendProposal,
        example={"to": "ada@example.com"},
        shows={"status": "sent", "sentAt": EXAMPLE_TIME, "sentTo": "ada@example.com"},
    ),
    EntityAction(
        name="accept",
        summary="Say that a proposal was accepted",
        decide=lambda proposal, given, at: proposal.accept(at=at),
        given=Nothing,
        shows={"status": "accepted", "answeredAt": EXAMPLE_TIME},
    ),
    EntityAction(
        name="decline",
        summary="Say that a proposal was declined",
        decide=lambda proposal, given, at: proposal.decline(at=at, reason=given.reason),
        given=DeclineProposal,
        example={"reason": "Too dear"},
        shows={"status": "declined", "answeredAt": EXAMPLE_TIME, "declineReason": "Too dear"},
    ),
    EntityAction(
        name="revise",
        summary="Revise a proposal, which makes it a draft again",
        decide=_redraft,
        given=Revision,
        example={"value": "45000.00"},
        shows={"status": "draft", "value": "45000.00"},
    ),
    example=EXAMPLE,
)
