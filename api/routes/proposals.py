"""/api/proposals, with the actions on a proposal."""

from __future__ import annotations

from datetime import datetime

from api.entities.actions import EntityAction, Nothing, add_action_routes
from api.entities.routes import entity_routes
from api.http.bodies import RequestModel
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from domain.proposal import Proposal
from domain.shared.fields import Date, Email, Line, Money, Name, Text

EXAMPLE = {"title": "Renewal 2027", "value": "48000.00", "accountId": EXAMPLE_ID}


class SendProposal(RequestModel):
    """The recipient."""

    to: Email


class DeclineProposal(RequestModel):
    """Why the proposal was declined."""

    reason: Line | None = None


class ProposalRevision(RequestModel):
    """The revised fields. Omitted members stay as they are; null unsets a field."""

    title: Name | None = None
    body: Text | None = None
    value: Money | None = None
    valid_until: Date | None = None


def _redraft(proposal: Proposal, body: ProposalRevision, at: datetime) -> None:
    fields = body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    proposal.redraft(fields, at=at)


ROUTER = entity_routes(Proposal, example=EXAMPLE, reads=("accounts",))

add_action_routes(
    ROUTER,
    Proposal,
    EntityAction(
        name="send",
        summary="Send a proposal; its content is fixed until it is revised",
        decide=lambda proposal, body, at: proposal.send(body.to, at=at),
        body=SendProposal,
        example={"to": "ada@example.com"},
        shows={"status": "sent", "sentAt": EXAMPLE_TIME, "sentTo": "ada@example.com"},
    ),
    EntityAction(
        name="accept",
        summary="Record that a proposal was accepted",
        decide=lambda proposal, body, at: proposal.accept(at=at),
        body=Nothing,
        shows={"status": "accepted", "answeredAt": EXAMPLE_TIME},
    ),
    EntityAction(
        name="decline",
        summary="Record that a proposal was declined",
        decide=lambda proposal, body, at: proposal.decline(at=at, reason=body.reason),
        body=DeclineProposal,
        example={"reason": "Too dear"},
        shows={"status": "declined", "answeredAt": EXAMPLE_TIME, "declineReason": "Too dear"},
    ),
    EntityAction(
        name="revise",
        summary="Revise a proposal, which makes it a draft again",
        decide=_redraft,
        body=ProposalRevision,
        example={"value": "45000.00"},
        shows={"status": "draft", "value": "45000.00"},
    ),
    example=EXAMPLE,
)
