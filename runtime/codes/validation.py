"""E2xxx: validation."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

NAME_REQUIRED = ErrorCode(
    "E2001",
    422,
    "Name is required.",
    "`name` (for an account `company`) is missing or empty.",
)
INVALID_EMAIL = ErrorCode(
    "E2002",
    422,
    "Invalid email.",
    "The value is not an address such as ada@example.com. Whether it receives mail is not tested.",
)
INVALID_FIELDS = ErrorCode(
    "E2003",
    422,
    "Some fields are not valid.",
    "There are errors with different codes; `errors` names every field with its own code.",
)
FIELD_REQUIRED = ErrorCode(
    "E2004",
    422,
    "A required field is missing.",
    "The field named in `errors` is missing, null or empty.",
)
UNKNOWN_FIELD = ErrorCode(
    "E2005",
    422,
    "There is no such field.",
    "Field names are camelCase; custom fields go into `customFields`. Fields that the server sets"
    " (`id`, `version`, `createdAt` and so on) cannot be sent.",
)
NOT_AN_OPTION = ErrorCode(
    "E2006",
    422,
    "The value is not one of the allowed values.",
    "The message in `errors` names the allowed values.",
)
TOO_LONG = ErrorCode(
    "E2007",
    422,
    "The value is too long.",
    "The message in `errors` gives the maximum length.",
)
INVALID_NUMBER = ErrorCode(
    "E2008",
    422,
    "The value is not a valid amount or number.",
    'Amounts are decimal strings such as "1200.50": not negative, at most two decimals.',
)
INVALID_TIME = ErrorCode(
    "E2009",
    422,
    "The value is not a valid date or time.",
    "Dates have the form 2026-01-31, times 2026-01-31T12:00:00Z. A time needs a zone.",
)
INVALID_VALUE = ErrorCode(
    "E2010",
    422,
    "The value is not valid.",
    "The type is wrong, a character is not allowed, or fields contradict each other. The message"
    " in `errors` says which.",
)
MALFORMED_JSON = ErrorCode(
    "E2020",
    400,
    "The body is not valid JSON.",
    "`detail` says where the parser stopped. NaN and Infinity are not JSON.",
)
NOT_UTF8 = ErrorCode(
    "E2021",
    400,
    "The body is not UTF-8 text.",
    "JSON has to be encoded in UTF-8. Files saved by spreadsheets often have another encoding.",
)
DUPLICATE_KEY = ErrorCode(
    "E2022",
    400,
    "A name occurs twice in the same JSON object.",
    "Parsers disagree on which of the two values counts, so the body is refused.",
)
TOO_DEEP = ErrorCode(
    "E2023",
    400,
    "The JSON is nested too deeply.",
    "No request needs more than a few levels; the maximum is JSON_DEPTH_MAX.",
)
BODY_TOO_LARGE = ErrorCode(
    "E2024",
    413,
    "The body is too large.",
    "The maximum is `maxBytes`, the setting ANNALS_BODY_MAX_BYTES. Use an import for many records.",
)
UNSUPPORTED_MEDIA_TYPE = ErrorCode(
    "E2025",
    415,
    "The Content-Type is not supported here.",
    "`supported` lists the supported types. A charset other than UTF-8 is refused as well.",
)
UNEXPECTED_SHAPE = ErrorCode(
    "E2026",
    400,
    "The body does not have the expected shape.",
    "A JSON object was expected, or an array of operations for JSON Patch.",
)
MALFORMED_PATCH = ErrorCode(
    "E2027",
    400,
    "The JSON Patch is malformed.",
    "An operation is not defined in RFC 6902, lacks a member, or has an invalid pointer;"
    " `operation` is its index, from 0. The maximum is PATCH_OPERATIONS_MAX operations.",
)
INEXACT_NUMBER = ErrorCode(
    "E2028",
    400,
    "A number has more digits than can be stored.",
    "It would be rounded. Send amounts as decimal strings.",
)
UNKNOWN_PARAMETER = ErrorCode(
    "E2030",
    400,
    "There is no such query parameter.",
    "Unknown parameters are refused because the results of an ignored filter would be misleading.",
)
INVALID_PARAMETER = ErrorCode(
    "E2031",
    400,
    "A parameter of the request is not valid.",
    "`errors` names the parameter, which may be in the path, the query or a header.",
)
INVALID_CURSOR = ErrorCode(
    "E2032",
    400,
    "The cursor is not valid.",
    "A cursor is valid only for the list, order and filters that it came from. Start again"
    " without one.",
)
INVALID_IF_MATCH = ErrorCode(
    "E2033",
    400,
    "The If-Match header is not valid.",
    "It has to be `*` or a list of entity tags in double quotes, as in the ETag header.",
)
INVALID_MIN_POSITION = ErrorCode(
    "E2034",
    400,
    "The Annals-Min-Position header is not valid.",
    "It has to be a position as in the Annals-Position header: a whole number, not negative.",
)
INVALID_IDEMPOTENCY_KEY = ErrorCode(
    "E2035",
    400,
    "The Idempotency-Key header is not valid.",
    "It has to be 1 to 200 visible ASCII characters without quotes and backslashes, such as a"
    " UUID. If X-Idempotency-Key is sent as well, both must be the same.",
)
IDEMPOTENCY_KEY_REUSED = ErrorCode(
    "E2036",
    422,
    "This idempotency key was used for another request.",
    "Method, path, Content-Type or body differ from those of the first request with this key. Use"
    " a new key for every request, and the same key only to repeat a request.",
)
ROUTE_NOT_FOUND = ErrorCode(
    "E2040",
    404,
    "Nothing exists at this address.",
    "The API does not serve this path; /docs lists all paths. A part of a path that stands for an"
    " id has to be a UUID.",
)
METHOD_NOT_ALLOWED = ErrorCode(
    "E2041",
    405,
    "This method is not supported here.",
    "The Allow header lists the supported methods.",
)
HTTP_REFUSED = ErrorCode(
    "E2042",
    400,
    "The request cannot be processed.",
    "The web framework refused the request before it reached a route. The log line with the"
    " request id has the reason.",
)
