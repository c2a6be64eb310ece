"""Dependencies and values taken from the request."""

from __future__ import annotations

from anyio import to_thread
from fastapi import Request

from api.dependencies.services import Services
from api.http.auth import Caller
from eventlog.scope import Scope
from runtime import codes
from runtime.composition import new_id
from runtime.errors import ApiError
from runtime.tracing import TRACEPARENT

USER_AGENT_MAX_CHARS = 256


async def services_of(request: Request) -> Services:
    """Dependency: return the services of this process."""
    services: Services = request.app.state.services
    return services


def command_scope(request: Request, caller: Caller) -> Scope:
    """Return the scope of the command in this request; it becomes the metadata of its events."""
    return Scope(
        workspace_id=caller.workspace_id,
        actor=caller.actor,
        key_id=str(caller.key_id),
        credential=caller.credential,
        command=request.scope["route"].operation_id,
        command_id=str(new_id()),
        request_id=request.state.request_id,
        ip=request.client.host if request.client else "",
        user_agent=_user_agent(request),
        extra=_trace(request),
    )


async def require_write_capacity(request: Request) -> None:
    """Dependency: refuse a write with 503 (E3002) if ANNALS_WRITE_QUEUE_MAX writes are waiting."""
    state = request.app.state
    in_threads = to_thread.current_default_thread_limiter().statistics().tasks_waiting
    if in_threads + state.services.committer.waiting >= state.settings.write_queue_max:
        raise ApiError(codes.DATABASE_BUSY)


def _trace(request: Request) -> dict[str, str]:
    """Return the W3C trace context of the request, if requests are traced."""
    traceparent = getattr(request.state, TRACEPARENT, "")
    return {TRACEPARENT: traceparent} if traceparent else {}


def _user_agent(request: Request) -> str:
    given = request.headers.get("User-Agent", "")[:USER_AGENT_MAX_CHARS]
    return "".join(char for char in given if char.isprintable())
