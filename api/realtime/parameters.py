"""The parameters of a subscription, for both transports, validated as an `Interest`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationError
from pydantic.alias_generators import to_camel

from api.http.auth import Caller
from api.http.bodies import RequestModel
from api.http.conditions import parse_position
from api.http.parameters import invalid_parameter, reject_control_characters
from api.http.problems import invalid_parameters
from api.http.visibility import visibility_of, visible_kinds
from api.realtime.subscriber import Interest
from commands.permissions import Permission
from domain.shared.kinds import ENTITY_OF, KINDS, by_either_number
from replay.facts import FactFilter
from runtime import codes
from runtime.errors import ApiError

LIST_MAX_CHARS = 2_000
TEXT_SHOWN_CHARS = 40
FACTS, READY = "facts", "ready"

ListOfNames = Annotated[
    str, Field(max_length=LIST_MAX_CHARS), AfterValidator(reject_control_characters)
]


class RealtimeParameters(RequestModel):
    """Which changes to follow."""

    kinds: ListOfNames | None = Field(
        default=None,
        description="Kinds of entity, separated by commas; by default all that the role may see.",
        examples=["account,contact"],
    )
    types: ListOfNames | None = Field(
        default=None,
        description="Types of event, separated by commas.",
        examples=["account.created,account.deleted"],
    )
    entity_id: UUID | None = Field(default=None, description="One entity.")
    account_id: UUID | None = Field(
        default=None, description="One account with the entities that belong to it."
    )
    follow: ListOfNames = Field(
        default=FACTS,
        description="`facts`: the events. `ready`: the read tables have them. Or both.",
        examples=["facts,ready"],
    )
    last_event_id: str | None = Field(
        default=None,
        max_length=TEXT_SHOWN_CHARS,
        description="Last-Event-ID for clients that cannot set the header, which takes precedence.",
    )


def parse_parameters(given: list[tuple[str, str]]) -> RealtimeParameters:
    """Parse the query of a WebSocket, which the framework does not. Raises 400 (E2030, E2031)."""
    known = {to_camel(name) for name in RealtimeParameters.model_fields}
    for name, _ in given:
        if name not in known:
            shown = name[:TEXT_SHOWN_CHARS]
            raise ApiError(codes.UNKNOWN_PARAMETER, parameter=shown, known=sorted(known))
        if sum(each == name for each, _ in given) > 1:
            raise invalid_parameter(name, "is given twice")
    try:
        return RealtimeParameters.model_validate(dict(given))
    except ValidationError as error:
        raise invalid_parameters(dict(each) for each in error.errors()) from None


def interest_of(
    caller: Caller, parameters: RealtimeParameters, last_event_id: str | None = None
) -> Interest:
    """Return the caller's interest, limited to what the role may see.

    last_event_id: the header. It takes precedence over the query, because a browser that reconnects
    repeats the query and updates the header. Raises 400 (E2031, E2110) and 403 (E1008).
    """
    follow = _names("follow", parameters.follow, (FACTS, READY))
    kinds = None if parameters.kinds is None else _kinds(parameters.kinds)
    topics = None if parameters.types is None else _names("types", parameters.types, ENTITY_OF)
    allowed = visible_kinds(caller.role)
    if not {*(kinds or ()), *(topic.partition(".")[0] for topic in topics or ())} <= allowed:
        caller.require(Permission.AUDIT)
    wanted = FactFilter(
        workspace_id=caller.workspace_id,
        kinds=kinds or (None if allowed == frozenset(KINDS) else allowed),
        topics=topics,
        entity_id=parameters.entity_id,
        account_id=parameters.account_id,
    )
    resume_after = last_event_id or parameters.last_event_id
    return Interest(
        caller,
        wanted,
        visibility_of(caller.role),
        facts=FACTS in follow,
        ready=READY in follow,
        after=parse_position(resume_after, codes.INVALID_LAST_EVENT_ID) if resume_after else None,
    )


def _kinds(text: str) -> frozenset[str]:
    """The kinds of a list, whose names are in the singular or the plural. Raises 400 (E2031)."""
    forms = by_either_number(KINDS)
    return frozenset(forms[each] for each in _names("kinds", text, forms))


def _names(
    parameter: str, text: str, known: Collection[str] | Mapping[str, object]
) -> frozenset[str]:
    names = frozenset(each.strip() for each in text.split(","))
    if not names <= set(known):
        raise invalid_parameter(parameter, f"is a list of {', '.join(sorted(known))}")
    return names
