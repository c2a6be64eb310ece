"""Text messages: ask for one, see what became of them, hear it from the gateway."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from api.dependencies.idempotency import Executor
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.entities.routes import ServicesDep
from api.http.auth import Caller, Permission, require_permission
from api.http.bodies import Body, body_of
from api.http.conditions import await_position, position_header
from api.http.openapi import (
    EXAMPLE_ID,
    EXAMPLE_TIME,
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_WRITE,
    body,
    problems,
    success,
)
from api.http.problems import WITH_SUCCESS_FLAG
from commands.delivery.breakers import load_breaker
from commands.delivery.sending import BREAKER
from commands.entities import CommandOutcome
from domain.lead import Lead
from domain.shared.breaker import Breaker
from domain.shared.fields import field_errors
from domain.shared.refusals import InvalidFields, IsDeleted, NotFound
from domain.sms import MESSAGE_MAX_CHARS, TemplateId
from eventlog.scope import Actor, Scope
from readmodels.sms import SMS_PAGE_DEFAULT, SMS_PAGE_MAX, sms_history, waiting_messages
from runtime import codes
from runtime.composition import new_id
from runtime.errors import ApiError
from runtime.gateways.twilio import RECEIPTS_PATH, STATUS_OF, is_signed
from runtime.patches import JSON_TYPE, without_nulls

PROJECTION = "sms"
FORM_TYPE = "application/x-www-form-urlencoded"
FORM_FIELDS_MAX = 100
VARIABLES_MAX = 20
TWILIO = Actor("system", "twilio", "Twilio")

ROUTER = APIRouter()
TAGS: list[str | Enum] = ["sms"]

EXAMPLE = {"leadId": EXAMPLE_ID, "message": "Your documents are ready."}
EXAMPLE_SMS = {"id": EXAMPLE_ID, **EXAMPLE, "status": "pending", "sentAt": EXAMPLE_TIME}
EXAMPLE_HISTORY = {
    **EXAMPLE_SMS,
    "status": "delivered",
    "updatedAt": EXAMPLE_TIME,
    "phone": "+442079460000",
    "templateId": None,
    "gatewayId": "SM0123456789abcdef0123456789abcdef",
    "error": None,
    "errorCode": None,
}
EXAMPLE_GATEWAY = {
    "gateway": "twilio",
    "state": "OPEN",
    "failures": 5,
    "openUntil": EXAMPLE_TIME,
    "waitSeconds": 30.0,
    "waiting": 2,
}
SILENT = {"success": False, "error": codes.SMS_GATEWAY_UNAVAILABLE.title, "retrying": True}


class SendSms(BaseModel):
    """A message to a lead: its text, or a template with its variables."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    lead_id: UUID
    message: Annotated[str, StringConstraints(max_length=MESSAGE_MAX_CHARS)] | None = Field(
        default=None, description="What is sent, unless a template is named with its variables."
    )
    template_id: TemplateId | None = None
    variables: dict[str, Annotated[str, StringConstraints(max_length=200)]] | None = Field(
        default=None,
        max_length=VARIABLES_MAX,
        description="What the template's variables stand for; `name` is the lead's where it is not"
        " given, `message` the message.",
    )


def _send_responses() -> dict[int | str, Any]:
    accepted = success(
        "Recorded; a process that follows the log sends it.",
        None,
        "Annals-Position",
        example={"success": True, "sms": EXAMPLE_SMS},
    )
    possible = problems(
        *(*ON_BODY, *ON_FIELDS, *ON_WRITE, codes.NOT_FOUND, codes.IS_DELETED),
        *(codes.TEMPLATE_VARIABLE_MISSING, codes.TEMPLATE_VARIABLE_UNKNOWN, codes.PHONE_UNUSABLE),
        *(codes.LEAD_OPTED_OUT, codes.LEAD_HAS_NO_PHONE, codes.LEAD_DAILY_LIMIT_REACHED),
        *(codes.WORKSPACE_DAILY_LIMIT_REACHED, codes.SMS_GATEWAY_UNAVAILABLE),
    )
    possible[503]["content"][JSON_TYPE] = {"example": SILENT}
    return {200: accepted, **possible}


@ROUTER.post(
    "/api/leads/send-sms",
    operation_id="sendSms",
    tags=TAGS,
    summary="Send a text message to a lead",
    responses=_send_responses(),
    openapi_extra={**body({JSON_TYPE: (SendSms, EXAMPLE)}), **WITH_SUCCESS_FLAG},
    dependencies=[Depends(require_write_capacity)],
)
def send_sms(
    services: ServicesDep,
    _caller: Annotated[Caller, Depends(require_permission(Permission.WRITE))],
    given: Annotated[Body, Depends(body_of(JSON_TYPE))],
    executor: Executor,
) -> Response:
    """While the gateway does not answer, 503 with `retrying: true`: it is recorded all the same."""

    def act(scope: Scope) -> Response:
        asked = _checked(given.fields())
        outcome = services.sms.request(
            scope,
            asked.lead_id,
            message=asked.message,
            template_id=asked.template_id,
            variables=asked.variables,
        )
        with services.log.transaction(scope) as connection:
            breaker, now = load_breaker(connection, BREAKER)
        if breaker.is_open(now):
            return _answer(SILENT, position_header(outcome), status=503)
        return _answer({"success": True, "sms": _shown(outcome)}, position_header(outcome))

    return executor.run(act, given)


@ROUTER.get(
    "/api/leads/{leadId}/sms-history",
    operation_id="getSmsHistory",
    tags=TAGS,
    summary="The text messages to a lead and what became of them; newest first",
    responses={
        200: success("One page.", example={"sms_messages": [EXAMPLE_HISTORY], "nextCursor": None}),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def history(
    lead_id: Annotated[UUID, Path(alias="leadId", examples=[EXAMPLE_ID])],
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
    _: Annotated[None, Depends(await_position(PROJECTION, "leads"))],
    cursor: Annotated[UUID | None, Query(description="Go on after this message.")] = None,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=SMS_PAGE_MAX)] = SMS_PAGE_DEFAULT,
) -> Response:
    """`{sms_messages, nextCursor}`; `sentAt` is when a message was asked for."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await sms_history(
            connection, caller.workspace_id, lead_id, after=cursor, limit=limit
        )
    if content is None:
        raise NotFound(Lead.KIND, lead_id)
    return Response(content, media_type=JSON_TYPE)


@ROUTER.get(
    "/api/sms/gateway",
    operation_id="getSmsGateway",
    tags=TAGS,
    summary="Whether the gateway for text messages answers",
    responses={
        200: success("The state of its circuit breaker.", example=EXAMPLE_GATEWAY),
        **problems(*ON_READ),
    },
)
async def gateway(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(require_permission(Permission.READ))],
    _: Annotated[None, Depends(await_position(PROJECTION))],
) -> Response:
    """The gateway is everybody's; `waiting` are the messages of this workspace alone."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        waiting = await waiting_messages(connection, caller.workspace_id)
    breaker = await run_in_threadpool(_breaker, services)
    content = {
        "gateway": services.settings.sms_gateway,
        "state": breaker.state,
        "failures": len(breaker.failures),
        "openUntil": breaker.until,
        "waitSeconds": breaker.wait_s,
        "waiting": waiting,
    }
    return _answer(content)


@ROUTER.post(
    RECEIPTS_PATH,
    operation_id="receiveSmsReceipt",
    summary="What the gateway has to say of a message; signed by it",
    status_code=204,
    tags=["operation"],
    responses={
        204: success("Noted, or known already."),
        **problems(
            *(codes.RECEIPT_NOT_SIGNED, codes.NOT_FOUND, codes.BODY_TOO_LARGE),
            *(codes.UNSUPPORTED_MEDIA_TYPE, codes.BODY_TIMED_OUT, codes.INVALID_PARAMETER),
            *(codes.DATABASE_UNREACHABLE, codes.DATABASE_BUSY, codes.WRITE_CONTENTION),
            always=(codes.UNKNOWN_PARAMETER, codes.UNEXPECTED),
        ),
    },
    openapi_extra={
        "requestBody": {
            "content": {
                FORM_TYPE: {
                    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
                    "example": {"MessageSid": "SM0123…", "MessageStatus": "delivered"},
                }
            }
        }
    },
    dependencies=[Depends(require_write_capacity)],
)
def receive(
    request: Request,
    services: ServicesDep,
    given: Annotated[Body, Depends(body_of(FORM_TYPE))],
    workspace_id: Annotated[UUID, Query(alias="workspaceId")],
    sms_id: Annotated[UUID, Query(alias="smsId")],
    signature: Annotated[str, Header(alias="X-Twilio-Signature")] = "",
) -> Response:
    """Late, doubled and unordered receipts change nothing that they should not."""
    form = _form(given.content)
    _require_signed(request, services, form, signature)
    told = dict(form)
    status = STATUS_OF.get(told.get("MessageStatus", ""))
    if status is not None:
        facts = {"gateway_id": told.get("MessageSid") or None}
        if code := told.get("ErrorCode"):
            facts |= {"error": f"the gateway reports error {code}", "error_code": code}
        scope = _receipt_scope(request, workspace_id)
        try:
            services.sms.record_status(scope, sms_id, status, **facts)
        except (NotFound, IsDeleted):
            raise ApiError(codes.NOT_FOUND) from None
    return Response(status_code=204)


def _form(content: bytes) -> list[tuple[str, str]]:
    try:
        text = content.decode()
        return parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX)
    except ValueError:  # not UTF-8, or too many
        raise ApiError(codes.RECEIPT_NOT_SIGNED) from None


def _require_signed(
    request: Request, services: Services, form: list[tuple[str, str]], given: str
) -> None:
    """Raise 403 (E1010) unless the gateway of the settings has signed this request.

    By the address that the gateway was told: what a proxy makes of it is none of its business.
    """
    settings = services.settings
    token, public_url = settings.sms_twilio_token, settings.sms_public_url
    if settings.sms_gateway != "twilio" or token is None or public_url is None:
        raise ApiError(codes.RECEIPT_NOT_SIGNED)
    url = f"{public_url.rstrip('/')}{RECEIPTS_PATH}?{request.url.query}"
    if not is_signed(token, url, form, given):
        raise ApiError(codes.RECEIPT_NOT_SIGNED)


def _receipt_scope(request: Request, workspace_id: UUID) -> Scope:
    return Scope(
        workspace_id,
        TWILIO,
        command="receiveSmsReceipt",
        command_id=str(new_id()),
        request_id=request.state.request_id,
        ip=request.client.host if request.client else "",
    )


def _breaker(services: Services) -> Breaker:
    with services.writes.connection() as connection:
        return load_breaker(connection, BREAKER)[0]


def _checked(given: dict[str, Any]) -> SendSms:
    try:
        return SendSms.model_validate(without_nulls(given))
    except ValidationError as error:
        raise InvalidFields(field_errors(error)) from None


def _shown(outcome: CommandOutcome) -> dict[str, Any]:
    facts = outcome.entity.values
    shown = {name: facts[name] for name in ("leadId", "message", "status")}
    return {"id": outcome.entity.id, **shown, "sentAt": outcome.entity.created_on}


def _answer(
    content: dict[str, Any], headers: dict[str, str] | None = None, *, status: int = 200
) -> Response:
    return Response(orjson.dumps(content), status, media_type=JSON_TYPE, headers=headers)
