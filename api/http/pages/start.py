"""/: what answers here, for a person in a browser and for a program."""

from __future__ import annotations

import orjson
from fastapi import FastAPI, Request, Response
from starlette.responses import HTMLResponse

from runtime import VERSION
from runtime.patches import JSON_TYPE

LINKS = {
    "documentation": "/docs",
    "reference": "/redoc",
    "openapi": "/openapi.json",
    "errors": "/api/errors",
    "health": "/healthz",
}
CONTENT = orjson.dumps({"name": "Annals", "version": VERSION, "links": LINKS})
PAGE = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Annals</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body>
<h1>Annals {VERSION}</h1>
<p>This is the API of a CRM whose database is its history.</p>
<ul>
<li><a href="/docs">Documentation of the API</a>, in which requests can be tried with a key</li>
<li><a href="/redoc">The same to read</a></li>
<li><a href="/openapi.json">The OpenAPI document</a>, for generators of clients</li>
<li><a href="/healthz">The state of this installation</a></li>
</ul>
</body>
</html>
"""


def add_start(app: FastAPI) -> None:
    """Add the page."""

    async def show(request: Request) -> Response:
        accept = request.headers.get("Accept", "")
        vary = {"Vary": "Accept"}
        if "text/html" in accept:
            return HTMLResponse(PAGE, headers=vary)
        return Response(CONTENT, media_type=JSON_TYPE, headers=vary)

    app.add_api_route("/", show, methods=["GET"], include_in_schema=False)
