"""Text messages: send one, read their history, and receive the gateway's delivery receipts."""

from __future__ import annotations

import math
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, StringConstraints

from api.dependencies.annotated import Executor, JsonBody, Reader, ServicesDep, Writer
from api.dependencies.request import require_write_capacity
from api.dependencies.services import Services
from api.http.bodies import Body, RequestModel, require_body, validate, wire_names
from api.http.conditions import await_position
from api.http.openapi.bodies import request_body
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.records import ResponseModel
from api.http.openapi.responses import (
    ON_BODY,
    ON_FIELDS,
    ON_READ,
    ON_WRITE,
    WITHOUT_KEY,
    headers,
    no_body,
    problems,
    success,
)
from api.http.problems import WITH_SUCCESS_FLAG
from api.http.responses import json_response
from commands.decisions import CommandOutcome
from commands.delivery.breakers import load_breaker
from commands.delivery.sending import BREAKER
from domain.lead import Lead
from domain.shared.breaker import Breaker
from domain.shared.refusals import IsDeleted, NotFound
from domain.sms import MESSAGE_MAX_CHARS, TemplateId
from eventlog.scope import Actor, Scope
from readmodels.sms import SMS_PAGE_DEFAULT, SMS_PAGE_MAX, sms_history, waiting_messages
from runtime import codes
from runtime.composition import new_id
from runtime.errors import ApiError
from runtime.gateways import is_receipt_signed
from runtime.gateways.twilio import RECEIPTS_PATH, parse_receipt
from runtime.patches import JSON_TYPE, without_nulls

PROJECTION = "sms"
FORM_TYPE = "application/x-www-form-urlencoded"
FORM_FIELDS_MAX = 100
VARIABLES_MAX = 20
VARIABLE_NAME_MAX_CHARS = 50
TWILIO = Actor("system", "twilio", "Twilio")

ROUTER = APIRouter()
TAGS: list[str | Enum] = ["sms"]

EXAMPLE = {"leadId": EXAMPLE_ID, "message": "Your documents are ready."}
EXAMPLE_SMS = {"id": EXAMPLE_ID, **EXAMPLE, "status": "pending", "sentAt": EXAMPLE_TIME}
EXAMPLE_SENT_SMS = {
    **EXAMPLE_SMS,
    "status": "delivered",
    "updatedAt": EXAMPLE_TIME,
    "phone": "+442079460000",
    "templateId": None,
    "gatewayId": "SM0123456789abcdef0123456789abcdef",
    "error": None,
    "errorCode": None,
}
EXAMPLE_HISTORY = {"sms_messages": [EXAMPLE_SENT_SMS], "nextCursor": None}
EXAMPLE_GATEWAY = {
    "gateway": "twilio",
    "state": "OPEN",
    "failures": 5,
    "openUntil": EXAMPLE_TIME,
    "waitSeconds": 30.0,
    "waiting": 2,
}
UNAVAILABLE = {
    "success": False,
    "error": codes.SMS_GATEWAY_UNAVAILABLE.title,
    "code": codes.SMS_GATEWAY_UNAVAILABLE.known_as,
    "errorCode": codes.SMS_GATEWAY_UNAVAILABLE.code,
    "retrying": True,
}


SIGNATURE_HEADER = Header(
    alias="X-Twilio-Signature", json_schema_extra={"pattern": "^[A-Za-z0-9+/]*=*$"}
)
VariableName = Annotated[str, StringConstraints(max_length=VARIABLE_NAME_MAX_CHARS)]


class SendSms(RequestModel):
    """A message to a lead: its text, or a template with its variables."""

    lead_id: UUID
    message: Annotated[str, StringConstraints(max_length=MESSAGE_MAX_CHARS)] | None = Field(
        default=None, description="The text, unless a template is given with its variables."
    )
    template_id: TemplateId | None = None
    variables: dict[VariableName, Annotated[str, StringConstraints(max_length=200)]] | None = Field(
        default=None,
        max_length=VARIABLES_MAX,
        description="Values of the template's variables. By default `name` is the name of the lead"
        " and `message` the message.",
    )


class RequestedSms(ResponseModel):
    """A message that is recorded."""

    id: UUID
    lead_id: UUID
    message: str
    status: str
    sent_at: datetime = Field(description="When it was requested.")


class SmsRequested(BaseModel):
    """The message will be sent."""

    success: Literal[True]
    sms: RequestedSms


class SmsDeferred(ResponseModel):
    """The gateway is unavailable. The message is recorded, and will be sent."""

    success: Literal[False]
    error: str
    code: Literal["CIRCUIT_BREAKER_OPEN"]
    error_code: str
    retrying: Literal[True]


class SentSms(RequestedSms):
    """A message with its delivery status."""

    updated_at: datetime
    phone: str | None
    template_id: str | None
    gateway_id: str | None
    error: str | None
    error_code: str | None


class SmsHistory(BaseModel):
    """One page."""

    sms_messages: list[SentSms]
    next_cursor: str | None = Field(
        alias="nextCursor",
        description="Ask for the next page with it; null on the last page.",
    )


class SmsGateway(ResponseModel):
    """The state of the gateway's circuit breaker."""

    gateway: str
    state: str
    failures: int
    open_until: datetime | None
    wait_seconds: float | None
    waiting: int


def _send_responses() -> dict[int | str, Any]:
    accepted = success(
        "Recorded; a sender process sends it.",
        SmsRequested,
        "Annals-Position",
        example={"success": True, "sms": EXAMPLE_SMS},
    )
    possible = problems(
        *(*ON_BODY, *ON_FIELDS, *ON_WRITE, codes.NOT_FOUND, codes.IS_DELETED),
        *(codes.TEMPLATE_VARIABLE_MISSING, codes.TEMPLATE_VARIABLE_UNKNOWN, codes.PHONE_UNUSABLE),
        *(codes.LEAD_OPTED_OUT, codes.LEAD_HAS_NO_PHONE, codes.LEAD_DAILY_LIMIT_REACHED),
        *(codes.WORKSPACE_DAILY_LIMIT_REACHED, codes.SMS_GATEWAY_UNAVAILABLE),
    )
    possible[503] |= {"model": SmsDeferred}
    possible[503]["content"][JSON_TYPE] = {"example": UNAVAILABLE}
    possible[503]["headers"] |= headers("Annals-Position")
    return {200: accepted, **possible}


@ROUTER.post(
    "/api/leads/send-sms",
    operation_id="sendSms",
    tags=TAGS,
    summary="Send a text message to a lead",
    responses=_send_responses(),
    openapi_extra={**request_body({JSON_TYPE: (SendSms, EXAMPLE)}), **WITH_SUCCESS_FLAG},
    dependencies=[Depends(require_write_capacity)],
)
def send_sms(
    services: ServicesDep, _caller: Writer, body: JsonBody, executor: Executor
) -> Response:
    """503 with `retrying: true` while the gateway is unavailable; the message is still recorded."""

    def act(scope: Scope) -> Response:
        request = validate(SendSms, without_nulls(body.fields(), wire_names(SendSms)))
        outcome = services.sms.request(
            scope,
            request.lead_id,
            message=request.message,
            template_id=request.template_id,
            variables=request.variables,
        )
        with services.log.transaction(scope) as connection:
            breaker, now = load_breaker(connection, BREAKER)
        if breaker.is_open(now):
            headers = {"Retry-After": str(_seconds_until_probe(breaker, now))}
            return json_response(UNAVAILABLE, 503, position=outcome.position, headers=headers)
        content = {"success": True, "sms": _sms_as_json(outcome)}
        return json_response(content, position=outcome.position)

    return executor.run(act, body)


@ROUTER.get(
    "/api/leads/{leadId:uuid}/sms-history",
    operation_id="getSmsHistory",
    tags=TAGS,
    summary="The text messages to a lead with their delivery status, newest first",
    responses={
        200: success("One page.", SmsHistory, example=EXAMPLE_HISTORY),
        **problems(codes.NOT_FOUND, *ON_READ),
    },
)
async def history(
    lead_id: Annotated[UUID, Path(alias="leadId", examples=[EXAMPLE_ID])],
    services: ServicesDep,
    caller: Reader,
    _: Annotated[None, Depends(await_position(PROJECTION, "leads"))],
    cursor: Annotated[UUID | None, Query(description="`nextCursor` of the previous page.")] = None,
    limit: Annotated[int, Query(alias="pageSize", ge=1, le=SMS_PAGE_MAX)] = SMS_PAGE_DEFAULT,
) -> Response:
    """`{sms_messages, nextCursor}`; `sentAt` is the time at which a message was requested."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        content = await sms_history(
            connection, caller.workspace_id, lead_id, after=cursor, limit=limit
        )
    if content is None:
        raise NotFound(Lead.KIND, lead_id)
    return json_response(content)


@ROUTER.get(
    "/api/sms/gateway",
    operation_id="getSmsGateway",
    tags=TAGS,
    summary="Whether the SMS gateway is available",
    responses={
        200: success("The state of its circuit breaker.", SmsGateway, example=EXAMPLE_GATEWAY),
        **problems(*ON_READ),
    },
)
async def gateway(
    services: ServicesDep,
    caller: Reader,
    _: Annotated[None, Depends(await_position(PROJECTION))],
) -> Response:
    """The gateway serves all workspaces; `waiting` counts the messages of this one."""
    async with services.reads.workspace(caller.workspace_id) as connection:
        waiting = await waiting_messages(connection, caller.workspace_id)
    breaker = await run_in_threadpool(_load_breaker, services)
    content = {
        "gateway": services.settings.sms_gateway,
        "state": breaker.state,
        "failures": len(breaker.failures),
        "openUntil": breaker.until,
        "waitSeconds": breaker.wait_s,
        "waiting": waiting,
    }
    return json_response(content)


@ROUTER.post(
    RECEIPTS_PATH,
    operation_id="receiveSmsReceipt",
    summary="Delivery receipts of the gateway, signed by it",
    status_code=204,
    tags=["operation"],
    responses={
        204: no_body("Recorded now or before."),
        **problems(
            *(codes.RECEIPT_NOT_SIGNED, codes.NOT_FOUND, codes.BODY_TOO_LARGE),
            *(codes.UNSUPPORTED_MEDIA_TYPE, codes.BODY_TIMED_OUT, codes.INVALID_PARAMETER),
            *(codes.DATABASE_UNREACHABLE, codes.DATABASE_BUSY, codes.WRITE_CONTENTION),
            always=WITHOUT_KEY,
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                FORM_TYPE: {
                    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
                    "example": {"MessageSid": "SM0123…", "MessageStatus": "delivered"},
                }
            },
        }
    },
    dependencies=[Depends(require_write_capacity)],
)
def receive(
    request: Request,
    services: ServicesDep,
    body: Annotated[Body, Depends(require_body(FORM_TYPE))],
    workspace_id: Annotated[UUID, Query(alias="workspaceId")],
    sms_id: Annotated[UUID, Query(alias="smsId")],
    signature: Annotated[str, SIGNATURE_HEADER] = "",
) -> Response:
    """Receipts may arrive late, repeatedly and out of order."""
    form = _parse_form(body.content)
    if not is_receipt_signed(services.settings, request.url.query, form, signature):
        raise ApiError(codes.RECEIPT_NOT_SIGNED)
    receipt = parse_receipt(form)
    if receipt is not None:
        scope = _receipt_scope(request, workspace_id)
        try:
            services.sms.record_status(scope, sms_id, receipt.status, **receipt.details)
        except (NotFound, IsDeleted):
            raise ApiError(codes.NOT_FOUND) from None
    return Response(status_code=204)


def _parse_form(content: bytes) -> list[tuple[str, str]]:
    try:
        text = content.decode()
        return parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX)
    except ValueError:  # not UTF-8, or too many fields
        raise ApiError(codes.RECEIPT_NOT_SIGNED) from None


def _receipt_scope(request: Request, workspace_id: UUID) -> Scope:
    return Scope(
        workspace_id,
        TWILIO,
        command="receiveSmsReceipt",
        command_id=str(new_id()),
        request_id=request.state.request_id,
        ip=request.client.host if request.client else "",
    )


def _seconds_until_probe(breaker: Breaker, now: datetime) -> int:
    """Return the seconds until the breaker admits a call, at least 1."""
    assert breaker.until is not None
    return max(1, math.ceil((breaker.until - now).total_seconds()))


def _load_breaker(services: Services) -> Breaker:
    with services.writes.connection() as connection:
        return load_breaker(connection, BREAKER)[0]


def _sms_as_json(outcome: CommandOutcome) -> dict[str, Any]:
    values = outcome.entity.values
    shown = {name: values[name] for name in ("leadId", "message", "status")}
    return {"id": outcome.entity.id, **shown, "sentAt": outcome.entity.created_on}
