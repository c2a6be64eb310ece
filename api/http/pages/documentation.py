"""/docs (Swagger UI) and /redoc: pages that load nothing from elsewhere, so they work offline."""

from __future__ import annotations

from importlib.resources import as_file, files

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from api.http.pages.security import policy_of

SCRIPTS_PATH = "/docs/scripts"
"""Where the scripts, styles and the icon are that the package fastapi-offline brings."""


def add_documentation(app: FastAPI) -> None:
    """Add the pages, each with a policy that allows its own scripts alone."""
    assert app.openapi_url is not None
    icon = f"{SCRIPTS_PATH}/favicon.png"
    with as_file(files("fastapi_offline") / "static") as folder:
        app.mount(SCRIPTS_PATH, StaticFiles(directory=folder))
    swagger = get_swagger_ui_html(
        openapi_url=app.openapi_url,
        title=f"{app.title}: the API",
        swagger_js_url=f"{SCRIPTS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{SCRIPTS_PATH}/swagger-ui.css",
        swagger_favicon_url=icon,
    )
    redoc = get_redoc_html(
        openapi_url=app.openapi_url,
        title=f"{app.title}: the API",
        redoc_js_url=f"{SCRIPTS_PATH}/redoc.standalone.js",
        redoc_favicon_url=icon,
        with_google_fonts=False,
    )
    for path, page in (("/docs", swagger), ("/redoc", redoc)):
        _add_page(app, path, bytes(page.body).decode())


def _add_page(app: FastAPI, path: str, page: str) -> None:
    headers = {"Content-Security-Policy": policy_of(page)}

    async def show() -> Response:
        return HTMLResponse(page, headers=headers)

    app.add_api_route(path, show, methods=["GET", "HEAD"], include_in_schema=False)
