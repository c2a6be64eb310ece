"""Sends the commands of a client to the API over HTTP."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from tests.support.chaos.journal import Answer, Ending, SentCommand
from tests.support.chaos.operations import Request

MERGE_TYPE = "application/merge-patch+json"
JSON_TYPE = "application/json"
CSV_TYPE = "text/csv"
CODE_CHARS = 5

NOTHING_RECORDED = {"E3002", "E3003", "E3004", "E4001"}
"""Error codes which promise that nothing was recorded; the checker holds the API to it."""
MAY_HAVE_HAPPENED = {"E3001"}
GONE = {404, 410}
"""Statuses of an entity that was deleted, or merged into another one."""
REFUSED = {*GONE, 409, 412, 422, 429}
"""Statuses of a refusal: by a rule of the domain, a version or a limit."""
DOWN = {503, 504}
SAID_MAX_CHARS = 200
LEADING_NUMBER = re.compile(r'"?(\d+)')


@dataclass(frozen=True)
class _HttpRequest:
    method: str
    path: str
    body: bytes = b""
    media_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class HttpTransport:
    """Sends commands to the API over HTTP."""

    makes_ids = False

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def perform(self, request: Request) -> Answer:
        """Send the command over HTTP and return the answer."""
        sent = request.sent
        try:
            path = f"/api/imports/{self._upload(request)}/start" if sent.command == "import" else ""
            response = self._send(request, http_request(request, path))
        except httpx.TransportError as error:
            return Answer(sent.op, "unknown", detail=f"{type(error).__name__}: {error}")
        except UploadFailed as failed:
            return Answer(sent.op, "refused", detail=f"upload: {failed}")
        if sent.command == "read":
            return _answer_to_read(request, response)
        if response.is_success or _is_recorded_all_the_same(response):
            return _acknowledged(sent, response)
        return Answer(sent.op, _ending(response), detail=_said(response))

    def _send(self, request: Request, wanted: _HttpRequest) -> httpx.Response:
        sent = request.sent
        headers = {"User-Agent": sent.op, **wanted.headers}
        if sent.expected_version is not None:
            headers["If-Match"] = f'"{sent.expected_version}"'
        if wanted.media_type:
            headers["Content-Type"] = wanted.media_type
        if sent.key:
            headers["Idempotency-Key"] = sent.key
        return self._http.request(wanted.method, wanted.path, content=wanted.body, headers=headers)

    def _upload(self, request: Request) -> str:
        """Upload the file, which records nothing in the log; return the import's id."""
        rows = "".join(f"{company},customer\n" for company in request.sent.rows)
        # Another name than the command's: an event recorded by the upload would have no command.
        headers = {"User-Agent": f"{request.sent.op} upload", "Content-Type": CSV_TYPE}
        if request.sent.key:
            headers["Idempotency-Key"] = f"{request.sent.key}-upload"
        response = self._http.post(
            "/api/imports?kind=accounts", content=f"company,type\n{rows}", headers=headers
        )
        if not response.is_success:
            raise UploadFailed(_said(response))
        return str(response.json()["id"])


class UploadFailed(Exception):
    """The file of an import was not accepted, so the import was not started."""


def http_request(request: Request, path: str = "") -> _HttpRequest:
    """Return the method, path and body of a command; an import is started at `path`."""
    sent, kind, fields = request.sent, request.kind, request.fields
    of_kind = f"/api/{kind.PLURAL}"
    of_entity = f"{of_kind}/{sent.stream}"
    match sent.command:
        case "create":
            link = {"accountId": request.account} if request.account else {}
            return _post(of_kind, {**fields, **link})
        case "delete":
            return _HttpRequest("DELETE", of_entity)
        case "restore":
            return _HttpRequest("POST", f"{of_entity}/restore")
        case "read":
            headers = {"Annals-Min-Position": str(sent.min_position)}
            return _HttpRequest("GET", of_entity, headers=headers)
        case "status" if kind.KIND == "lead":
            return _post("/api/leads/update-status", {"leadId": sent.stream, **fields})
        case "step" if request.path == "confirm":
            return _post("/api/bookings/confirm", {"appointmentId": sent.stream, **fields})
        case "step":
            return _post(f"{of_entity}/{request.path}", fields)
        case "convert" | "merge":
            return _post(f"{of_entity}/{sent.command}", fields)
        case "sms":
            return _post("/api/leads/send-sms", fields)
        case "undo" | "bulk":
            return _post(f"/api/{sent.command}", fields)
        case "import":
            return _HttpRequest("POST", path)
        case "intrude":
            return _intrusion(sent, of_entity, kind.PLURAL, fields)
        case _:
            return _patch(of_entity, fields)


def _intrusion(
    sent: SentCommand, of_entity: str, plural: str, fields: dict[str, Any]
) -> _HttpRequest:
    if sent.change == "delete":
        return _HttpRequest("DELETE", of_entity)
    if sent.change == "merge":
        return _post(f"{of_entity}/merge", fields)
    if sent.change == "bulk":
        body = {"kind": plural, "ids": [sent.stream], "change": {"delete": True}, "atomic": True}
        return _post("/api/bulk", body)
    return _patch(of_entity, fields)


def _post(path: str, body: object) -> _HttpRequest:
    return _HttpRequest("POST", path, orjson.dumps(body), JSON_TYPE)


def _patch(path: str, body: object) -> _HttpRequest:
    return _HttpRequest("PATCH", path, orjson.dumps(body), MERGE_TYPE)


def _acknowledged(sent: SentCommand, response: httpx.Response) -> Answer:
    body = response.json() if response.content else {}
    position = response.headers.get("Annals-Position")
    return Answer(
        sent.op,
        "acknowledged",
        stream=_stream(sent, body),
        version=_version(response),
        position=None if position is None else int(position),
        is_replayed=response.headers.get("Idempotent-Replayed") == "true",
        command_id=response.headers.get("Annals-Command", ""),
        job=body["id"] if response.status_code == httpx.codes.ACCEPTED else None,
        made=_made(body) if sent.command == "convert" else {},
        outcomes=_outcomes(body) if sent.command == "bulk" else {},
    )


def _stream(sent: SentCommand, body: dict[str, Any]) -> str | None:
    if sent.command == "create":
        return str(body["id"])
    if sent.command == "sms":
        return None if "sms" not in body else str(body["sms"]["id"])
    return sent.stream


def _made(body: dict[str, Any]) -> dict[str, str]:
    return {kind: body[kind]["id"] for kind in ("account", "contact", "opportunity")}


def _outcomes(body: dict[str, Any]) -> dict[str, int]:
    return {each["id"]: each.get("version", 0) for each in body.get("outcomes", [])}


def _version(response: httpx.Response) -> int | None:
    found = LEADING_NUMBER.match(response.headers.get("ETag", ""))
    return int(found[1]) if found else None


def _answer_to_read(request: Request, response: httpx.Response) -> Answer:
    sent = request.sent
    if response.status_code in GONE:
        return Answer(sent.op, "acknowledged", sent.stream)
    if response.is_success:
        return Answer(sent.op, "acknowledged", sent.stream, _version(response))
    ending: Ending = "unknown" if response.status_code in DOWN else "unexpected"
    return Answer(sent.op, ending, detail=_said(response))


def _is_recorded_all_the_same(response: httpx.Response) -> bool:
    """Whether a message was recorded that the gateway cannot send now."""
    return response.status_code in DOWN and b'"retrying":true' in response.content


def _ending(response: httpx.Response) -> Ending:
    code = _said(response)[:CODE_CHARS]
    if code in NOTHING_RECORDED or response.status_code in REFUSED:
        return "refused"
    return "unknown" if code in MAY_HAVE_HAPPENED else "unexpected"


def _said(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{problem['code']} {response.status_code}: {problem['detail']}"
    except (ValueError, KeyError):
        return f"{response.status_code}: {response.text[:SAID_MAX_CHARS]}"
