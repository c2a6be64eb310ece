"""/api/realtime: changes as they happen, as server-sent events and over WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response, WebSocket
from starlette.websockets import WebSocketDisconnect
from uuid_utils.compat import uuid7

from api.dependencies.annotated import Reader, ServicesDep
from api.dependencies.services import Services
from api.http import sse
from api.http.auth import invalid_credentials
from api.http.conditions import await_position
from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from api.http.openapi.headers import POSITION_PATTERN
from api.http.openapi.responses import ON_READ, problems, text
from api.http.problems import problem_response
from api.realtime.hub import Hub
from api.realtime.parameters import RealtimeParameters, interest_of, parse_parameters
from api.realtime.subscriber import CloseReason, Subscriber
from api.realtime.transport import SSE, WEBSOCKET
from commands.permissions import Permission
from runtime import codes
from runtime.errors import ApiError

SUBPROTOCOL = "annals"
"""The first subprotocol; a browser, which cannot set headers, sends its API key as the second."""
CLOSE_CODES = {
    CloseReason.SLOW: 1013,
    CloseReason.KEY: 1008,
    CloseReason.SHUTDOWN: 1012,
    CloseReason.UNAVAILABLE: 1013,
    CloseReason.RESET: 1012,
}
"""Codes of RFC 6455 and of IANA's registry: 1008 policy violation, 1012 service restart, 1013 try
again later."""

ROUTER = APIRouter(prefix="/api/realtime", tags=["realtime"])

EXAMPLE_FACT = (
    f'{{"position":7,"type":"account.updated","kind":"account","entityId":"{EXAMPLE_ID}",'
    '"version":2,"action":"update","actor":{"type":"member","name":"Ada"},'
    f'"recordedAt":"{EXAMPLE_TIME}",'
    '"changes":[{"field":"nextAction","before":null,"after":"Call"}]}'
)
EXAMPLE = sse.frame("fact", EXAMPLE_FACT, 7).decode()
STREAM = text(
    "`open` (where the stream begins), `fact`, `ready`, `end` (why it ends), with heartbeats in"
    " between.",
    {sse.MEDIA_TYPE: EXAMPLE},
)
ON_FOLLOW = (
    codes.INVALID_LAST_EVENT_ID,
    codes.POSITION_AHEAD,
    codes.TOO_MANY_SUBSCRIBERS,
    codes.TOO_MANY_SUBSCRIBERS_OF_KEY,
    codes.TOO_MANY_SUBSCRIBERS_OF_WORKSPACE,
    codes.SHUTTING_DOWN,
)


@ROUTER.get(
    "",
    operation_id="followChanges",
    summary="Follow changes as they happen (server-sent events; the same over WebSocket at /ws)",
    response_class=Response,
    responses={200: STREAM, **problems(*ON_READ, *ON_FOLLOW)},
)
async def follow(
    services: ServicesDep,
    caller: Reader,
    parameters: Annotated[RealtimeParameters, Query()],
    _: Annotated[None, Depends(await_position())],
    last_event_id: Annotated[
        str | None,
        Header(
            description="The `id` of the last event received; the stream resumes after it.",
            json_schema_extra={"pattern": POSITION_PATTERN},
        ),
    ] = None,
) -> Response:
    """The stream ends when the client disconnects, its key becomes invalid or the server stops."""
    interest = interest_of(caller, parameters, last_event_id)
    with contextlib.ExitStack() as stack:
        subscriber = stack.enter_context(services.hub.admitted(interest, SSE))
        await services.hub.join(subscriber)
        return sse.EventStream(_frames(services.hub, subscriber), closing=stack.pop_all().close)


async def _frames(hub: Hub, subscriber: Subscriber) -> AsyncIterator[bytes]:
    yield sse.opening()
    async for frames in hub.stream(subscriber):
        yield b"".join(frames)


@ROUTER.websocket("/ws")
async def follow_by_socket(socket: WebSocket) -> None:
    """The same events as messages `{event, id?, data}`. Messages of the client are ignored."""
    services: Services = socket.app.state.services
    socket.scope.setdefault("state", {})["request_id"] = str(uuid7())
    try:
        caller = await services.authenticator.authenticate(socket, _token_of(socket))
        caller.require(Permission.READ)
        interest = interest_of(
            caller,
            parse_parameters(socket.query_params.multi_items()),
            socket.headers.get("Last-Event-ID"),
        )
        with services.hub.admitted(interest, WEBSOCKET) as subscriber:
            await services.hub.join(subscriber)
            chosen = SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None
            await socket.accept(subprotocol=chosen)
            await _send_frames(socket, services.hub, subscriber)
    except WebSocketDisconnect:
        return
    except Exception as error:
        if socket.application_state.name != "CONNECTING":
            raise
        await socket.send_denial_response(await problem_response(socket, error))


async def _send_frames(socket: WebSocket, hub: Hub, subscriber: Subscriber) -> None:
    disconnect = asyncio.create_task(_wait_for_disconnect(socket, subscriber))
    try:
        async for frames in hub.stream(subscriber):
            for frame in frames:
                await socket.send_text(frame.decode())
        if subscriber.ended is not None:
            await socket.close(CLOSE_CODES[subscriber.ended], subscriber.ended.value)
    finally:
        disconnect.cancel()


async def _wait_for_disconnect(socket: WebSocket, subscriber: Subscriber) -> None:
    """End the subscription when the client disconnects, which sending alone does not notice."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    subscriber.end(CloseReason.SHUTDOWN)


def _token_of(socket: WebSocket) -> str:
    """Return the API key from the header or the subprotocols. Raises 401 (E1003, E1004)."""
    offered: list[str] = socket.scope["subprotocols"]
    given = socket.headers.get("Authorization")
    if given is None and len(offered) == 2 and offered[0] == SUBPROTOCOL:
        return offered[1]
    if given is None:
        raise ApiError(codes.NO_CREDENTIALS)
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise invalid_credentials(codes.MALFORMED_CREDENTIALS)
    return token
