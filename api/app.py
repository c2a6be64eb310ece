"""The HTTP API: the application with its routes, services, error handling and middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.telemetry import TelemetryConfig
from starlette.middleware.cors import CORSMiddleware

from api.dependencies.services import open_services
from api.http.client_address import ClientAddress, TrustedProxies
from api.http.direct.routes import DirectRoutes, direct_routes
from api.http.limits.hosts import AllowedHosts, HostAllowlist
from api.http.middleware import RequestContext
from api.http.openapi.document import describe, methods_at, query_parameters_by_operation
from api.http.pages.documentation import add_documentation
from api.http.pages.start import add_start
from api.http.parameters import reject_unknown_parameters
from api.http.problems import handle_errors, problem_response
from api.http.representation.compression import CompressedReads
from api.http.representation.reads import Representations, allow_header
from api.http.responses import COMMAND, POSITION
from api.http.shutdown import Shutdown
from api.routes import routers
from runtime import VERSION
from runtime.composition import app_url
from runtime.housekeeping import housekeeping
from runtime.metrics import Metrics
from runtime.settings import Settings, parse_origins
from runtime.tracing import open_tracing

CORS_METHODS = ("GET", "POST", "PATCH", "DELETE")
CORS_EXPOSED = (
    *("ETag", "Link", "Location", "Retry-After", "RateLimit", "RateLimit-Policy"),
    *(POSITION, COMMAND, "Idempotent-Replayed", "X-Request-Id"),
)
"""Response headers that scripts of other origins may read."""
CORS_MAX_AGE_S = 600
"""How long a browser may remember what was allowed, in seconds."""
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""Runtime has its own; that of the framework would look for its providers at each request."""
DESCRIPTION = """
A CRM backend whose database is its history.

Every response to a write has the header `Annals-Position`. A read that sends it back as
`Annals-Min-Position` waits until its response includes that write. `Annals-Command` names the
command, which `POST /api/undo` can undo. A write that is repeated with the same `Idempotency-Key`
is executed only once. Errors are problem documents (RFC 9457) with a `code`; `GET /api/errors`
explains each code. Responses to requests with a key show in `RateLimit` and
`RateLimit-Policy` what is left of its quotas; a request beyond them gets 429 with `Retry-After`.
A path with GET also answers HEAD, and every path OPTIONS.
"""


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Its services open when it starts and close when it stops."""
    metrics, tracing = Metrics(), open_tracing(settings, "annals-api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = settings.write_threads_max
        async with (
            open_services(settings, metrics) as services,
            housekeeping(app_url(settings), settings.idempotency_window_s, settings.import_kept_s),
        ):
            app.state.services = services
            app.state.shutdown.on_begin(services.hub.close)
            app.state.shutdown.on_begin(services.job_feed.stop)
            yield
        if tracing is not None:
            await to_thread.run_sync(tracing.close)

    app = FastAPI(
        title="Annals",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # add_documentation adds pages that need no other server
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(reject_unknown_parameters)],
        telemetry=NO_TELEMETRY,
    )
    app.state.settings, app.state.metrics = settings, metrics
    app.state.shutdown = Shutdown()
    for router in routers():
        app.include_router(router)
    add_documentation(app)
    add_start(app)
    handle_errors(app)
    app.add_exception_handler(405, _method_not_allowed)
    describe(app)
    app.state.query_parameters = query_parameters_by_operation(app)
    app.add_middleware(DirectRoutes, routes=direct_routes(app))
    app.add_middleware(Representations, methods_at=partial(methods_at, app))
    if allowed := AllowedHosts(settings.allowed_hosts):
        app.add_middleware(HostAllowlist, allowed=allowed)
    app.add_middleware(
        RequestContext, access_log=settings.access_log, metrics=metrics, tracing=tracing
    )
    app.add_middleware(CompressedReads)
    if origins := parse_origins(settings.cors_origins):
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=CORS_METHODS,
            allow_headers=["*"],
            expose_headers=CORS_EXPOSED,
            max_age=CORS_MAX_AGE_S,
        )
    # Last, so that it is the first to see a request.
    if proxies := TrustedProxies(settings.trusted_proxies):
        app.add_middleware(ClientAddress, proxies=proxies)
    return app


async def _method_not_allowed(request: Request, _error: Exception) -> Response:
    """Return 405 with all methods of the path; the framework would name those of one route only."""
    allowed = allow_header(methods_at(request.app, request.url.path))
    return await problem_response(request, HTTPException(405, headers={"Allow": allowed}))
