"""What a subscriber asks for, over either transport: parameters, checked, as an Interest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from api.http.auth import Caller, Permission
from api.http.conditions import POSITION_MAX
from api.http.parameters import invalid_parameter, plain
from api.http.visibility import visibility_of, visible_kinds
from api.realtime.subscriber import Interest
from domain.shared.kinds import ENTITY_OF, KINDS
from domain.shared.refusals import FieldError
from replay.facts import Wanted
from runtime import codes
from runtime.errors import ApiError

LIST_MAX_CHARS = 2_000
POSITION_MAX_CHARS = 40
FACTS, READY = "facts", "ready"

ListOfNames = Annotated[str, Field(max_length=LIST_MAX_CHARS), AfterValidator(plain)]


class RealtimeParameters(BaseModel):
    """Which changes, and what of them."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    kinds: ListOfNames | None = Field(
        default=None,
        description="Kinds of entity, divided by commas; all that the role may see if not given.",
        examples=["account,contact"],
    )
    types: ListOfNames | None = Field(
        default=None,
        description="Types of event, divided by commas.",
        examples=["account.created,account.deleted"],
    )
    entity_id: UUID | None = Field(default=None, description="One entity.")
    account_id: UUID | None = Field(
        default=None, description="One account with all that hangs on it."
    )
    follow: ListOfNames = Field(
        default=FACTS,
        description="`facts`: the events. `ready`: that the read tables have them. Or both.",
        examples=["facts,ready"],
    )
    last_event_id: str | None = Field(
        default=None,
        max_length=POSITION_MAX_CHARS,
        description="As the header Last-Event-ID, which counts more, for who cannot set headers.",
    )


def parse(given: list[tuple[str, str]]) -> RealtimeParameters:
    """The parameters of a query that no framework has looked at. Raises 400 (E2030, E2031)."""
    known = {to_camel(name) for name in RealtimeParameters.model_fields}
    for name, _ in given:
        if name not in known:
            shown = name[:POSITION_MAX_CHARS]
            raise ApiError(codes.UNKNOWN_PARAMETER, parameter=shown, known=sorted(known))
        if sum(each == name for each, _ in given) > 1:
            raise invalid_parameter(name, "is given twice")
    try:
        return RealtimeParameters.model_validate(dict(given))
    except ValidationError as error:
        faults = [
            FieldError(".".join(map(str, each["loc"])), each["type"], each["msg"])
            for each in error.errors()
        ]
        detail = "; ".join(f"{each.field}: {each.message}" for each in faults)
        raise ApiError(codes.INVALID_PARAMETER, detail, errors=faults) from None


def interest_of(
    caller: Caller, asked: RealtimeParameters, last_event_id: str | None = None
) -> Interest:
    """What is asked for, as far as the role may hear of it.

    last_event_id: the header. A browser that comes back by itself repeats the query and moves the
    header, so that one counts. Raises 400 (E2031, E2110) and 403 (E1008).
    """
    follow = _names("follow", asked.follow, (FACTS, READY))
    kinds = None if asked.kinds is None else _names("kinds", asked.kinds, KINDS)
    topics = None if asked.types is None else _names("types", asked.types, ENTITY_OF)
    allowed = visible_kinds(caller.role)
    if not {*(kinds or ()), *(topic.partition(".")[0] for topic in topics or ())} <= allowed:
        caller.require(Permission.AUDIT)
    wanted = Wanted(
        workspace_id=caller.workspace_id,
        kinds=kinds or (None if allowed == frozenset(KINDS) else allowed),
        topics=topics,
        entity_id=asked.entity_id,
        account_id=asked.account_id,
    )
    place = last_event_id or asked.last_event_id
    return Interest(
        caller,
        wanted,
        visibility_of(caller.role),
        facts=FACTS in follow,
        ready=READY in follow,
        after=parse_place(place) if place else None,
    )


def parse_place(text: str) -> int:
    """A position as the `id` of an event has it. Raises 400 (E2110)."""
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or int(text) > POSITION_MAX:
        raise ApiError(codes.INVALID_LAST_EVENT_ID)
    return int(text)


def _names(
    parameter: str, text: str, known: Collection[str] | Mapping[str, object]
) -> frozenset[str]:
    names = frozenset(each.strip() for each in text.split(","))
    if not names <= set(known):
        raise invalid_parameter(parameter, f"is a list of {', '.join(sorted(known))}")
    return names
