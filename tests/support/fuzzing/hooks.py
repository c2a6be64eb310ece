"""What schemathesis has to know about Annals besides the document.

schemathesis imports this module (`schemathesis.toml`). Its own check positive_data_acceptance is
replaced by `described_requests_are_accepted`, which allows named codes instead of whole statuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import schemathesis

from api.dependencies.idempotency import KEY_HEADER, X_KEY_HEADER
from api.http.conditions import MIN_POSITION
from api.http.openapi.headers import TAGS_PATTERN
from runtime.patches import JSON_PATCH_TYPE

REFUSALS: Mapping[str, str] = MappingProxyType(
    {
        "E2001": "a name of spaces alone is empty",
        "E2004": "text of spaces alone is empty",
        "E2005": "keys of a map name fields of the kind",
        "E2032": "a cursor is opaque: only the server can say whether it wrote it",
        "E2060": "the file has to be a table",
        "E2062": "the file has to be a table",
        "E2063": "an encoding is any of those that Python knows, and has to be that of the file",
        "E2064": "an import names columns of its file",
        "E2095": "whether a command has to set a field depends on the entity's state",
        "E5005": "the account has to exist",
        "E5006": "the member has to exist",
        "E5063": "the lead, contact or opportunity has to exist",
        "E5071": "the lead needs a phone number",
    }
)
"""Codes with which a described request may be refused, and why the document cannot say so."""
RULES = (
    *("contains a control character", "the year must lie between", "is not a valid email address"),
    *("Input should be a valid integer", "must be a number from"),  # 5.0 is one in JSON Schema
    *("must be at most 7 days after startsAt", "restore by ids"),
    *("is only for accounts of type", "must not be before startsAt", "must be after startsAt"),
    *("cursor: lists as of a time are paged by `page`", "are compared by"),
    *("either eventPosition or commandId is needed", "the time is out of range"),
    "If-Match names the version of one entity",
)
"""Rules that JSON Schema cannot state about a value, or about several fields or parameters."""
BY_STATE = (401, 403, 404, 409, 410, 412, 429)
"""Statuses of requests that another caller could send, or that may succeed later."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Correct the headers of requests.

    Reads do not wait for positions of the future, which are 503 by design. A described request gets
    an idempotency key of its own, because a repeated key means a repetition. The phase `coverage`
    writes headers of letters and digits only, which no entity tag is.
    """
    headers = case.headers or {}
    if headers.get(MIN_POSITION, "").isdecimal():
        headers[MIN_POSITION] = "0"
    if not _is_described(case):
        return
    if not re.search(TAGS_PATTERN, headers.get("If-Match", "*")):
        headers["If-Match"] = "*"
    key = str(uuid4())
    for name in (KEY_HEADER, X_KEY_HEADER):
        if name in headers:
            headers[name] = key


@schemathesis.check
def described_requests_are_accepted(ctx: Any, response: Any, case: Any) -> None:
    """A request that satisfies the document is accepted, or refused for one of the reasons above.

    The paths and values of a JSON Patch are those of the kind's fields, so it may be refused.
    """
    is_refused = response.status_code >= 400 and response.status_code not in BY_STATE
    if not is_refused or not _is_described(case) or case.media_type == JSON_PATCH_TYPE:
        return
    problem = json.loads(response.content)
    code, detail = problem.get("errorCode", problem["code"]), problem["detail"]
    is_rule = any(each in detail for each in RULES)
    assert code in REFUSALS or is_rule, f"{code} {detail}"


def _is_described(case: Any) -> bool:
    return case.meta is not None and bool(case.meta.generation.mode.is_positive)
