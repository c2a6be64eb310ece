"""The dictionary of error codes: what the user is told, and what support needs to know.

E1xxx authentication and access, E2xxx validation, E3xxx storage, E4xxx network and time,
E5xxx business rules. A code keeps its meaning for ever; docs/errors.md is made from this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class ErrorCode:
    """One way in which a request can fail: its HTTP status, and a sentence for each reader."""

    code: str
    status: int
    title: str
    explanation: str


# E1xxx: authentication and access

WRONG_LOGIN = ErrorCode(
    "E1001",
    401,
    "Invalid email or password.",
    "Reserved for signing in by password. The API itself lets clients in by API key.",
)
SESSION_EXPIRED = ErrorCode(
    "E1002",
    401,
    "Session expired.",
    "Reserved for sessions of people. API keys expire with E1006.",
)
NO_CREDENTIALS = ErrorCode(
    "E1003",
    401,
    "Authentication is required.",
    "The request has no Authorization header. Send `Authorization: Bearer <token>`.",
)
MALFORMED_CREDENTIALS = ErrorCode(
    "E1004",
    401,
    "The credentials cannot be read.",
    "The Authorization header is not `Bearer` followed by a token that Annals issued; often the"
    " token was cut when it was copied.",
)
UNKNOWN_KEY = ErrorCode(
    "E1005",
    401,
    "The API key is not valid.",
    "There is no such key, it was revoked, or the secret does not belong to it. Which of them is"
    " not said on purpose. A revoked key is refused within a second by every process.",
)
KEY_EXPIRED = ErrorCode(
    "E1006",
    401,
    "The API key has expired.",
    "The key's `expiresAt` has passed. An admin issues a new one with POST /api/keys.",
)
MEMBER_LEFT = ErrorCode(
    "E1007",
    401,
    "The member whom this API key stands for has left the workspace.",
    "The key has a `memberId` and that member was deleted. Restore the member or issue a new key.",
)
FORBIDDEN = ErrorCode(
    "E1008",
    403,
    "This API key may not do that.",
    "The role of the key lacks the permission named in `permission`; `role` is the key's role."
    " The table of roles is in api/auth.py.",
)
METRICS_REFUSED = ErrorCode(
    "E1009",
    403,
    "The metrics are not for you.",
    "Without ANNALS_METRICS_TOKEN they are shown to requests from the same machine only, and not"
    " through a proxy; with it, to whoever sends it as `Authorization: Bearer`.",
)

# E2xxx: validation

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
    "More than one kind of fault was found; `errors` names every field with its own code.",
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
    "Fields are spelled in camelCase; fields of your own go into `customFields`. Fields that the"
    " server sets (`id`, `version`, `createdAt` and so on) cannot be sent.",
)
NOT_AN_OPTION = ErrorCode(
    "E2006",
    422,
    "The value is not one of those allowed.",
    "The message in `errors` names the values allowed.",
)
TOO_LONG = ErrorCode(
    "E2007",
    422,
    "The value is too long.",
    "The message in `errors` says how long it may be.",
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
    "Dates are 2026-01-31, times 2026-01-31T12:00:00Z; a time needs its zone.",
)
INVALID_VALUE = ErrorCode(
    "E2010",
    422,
    "The value is not valid.",
    "The type is wrong, characters are not allowed, or fields contradict each other; the message"
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
    "JSON is sent in UTF-8. Files saved by spreadsheets often come in another encoding.",
)
DUPLICATE_KEY = ErrorCode(
    "E2022",
    400,
    "A name occurs twice in the same JSON object.",
    "Parsers disagree on which of the two holds, so neither is taken.",
)
TOO_DEEP = ErrorCode(
    "E2023",
    400,
    "The JSON is nested too deeply.",
    "No request needs more than a few levels; the limit is JSON_DEPTH_MAX.",
)
BODY_TOO_LARGE = ErrorCode(
    "E2024",
    413,
    "The body is too large.",
    "The limit is the setting ANNALS_BODY_MAX_BYTES; `maxBytes` tells it. Many records go through"
    " an import.",
)
WRONG_MEDIA_TYPE = ErrorCode(
    "E2025",
    415,
    "The Content-Type is not supported here.",
    "`supported` lists the types that are. A charset other than UTF-8 is refused as well.",
)
WRONG_SHAPE = ErrorCode(
    "E2026",
    400,
    "The body does not have the expected shape.",
    "A JSON object was expected, or for JSON Patch an array of operations.",
)
MALFORMED_PATCH = ErrorCode(
    "E2027",
    400,
    "The JSON Patch is malformed.",
    "An operation is not one of RFC 6902, lacks a member, or has an invalid pointer; `operation`"
    " is its index from 0. At most PATCH_OPERATIONS_MAX operations.",
)
INEXACT_NUMBER = ErrorCode(
    "E2028",
    400,
    "A number has more digits than can be kept.",
    "It would be rounded. Send amounts as decimal strings.",
)
UNKNOWN_PARAMETER = ErrorCode(
    "E2030",
    400,
    "There is no such query parameter.",
    "Unknown parameters are refused because an ignored filter looks like a wrong answer.",
)
INVALID_PARAMETER = ErrorCode(
    "E2031",
    400,
    "A parameter of the request is not valid.",
    "`errors` names the parameter of the path, query or header.",
)
INVALID_CURSOR = ErrorCode(
    "E2032",
    400,
    "The cursor is not valid.",
    "A cursor holds for the list, order and filters that gave it. Start again without one.",
)
INVALID_IF_MATCH = ErrorCode(
    "E2033",
    400,
    "The If-Match header is not valid.",
    "It is `*` or a list of entity tags in double quotes, as the ETag header gave them.",
)
INVALID_MIN_POSITION = ErrorCode(
    "E2034",
    400,
    "The Annals-Min-Position header is not valid.",
    "It is a position as an Annals-Position header gave it: a whole number, not negative.",
)
INVALID_IDEMPOTENCY_KEY = ErrorCode(
    "E2035",
    400,
    "The Idempotency-Key header is not valid.",
    "It is 1 to 200 visible ASCII characters without quotes and backslashes, such as a UUID; where"
    " X-Idempotency-Key is given as well, both are the same.",
)
IDEMPOTENCY_KEY_REUSED = ErrorCode(
    "E2036",
    422,
    "This idempotency key was used for another request.",
    "Method, path, Content-Type or body differ from those of the first request with this key."
    " Every request gets a key of its own; only its repetition uses the same one.",
)
NO_SUCH_ROUTE = ErrorCode(
    "E2040",
    404,
    "There is nothing at this address.",
    "The path is not one that the API serves; /docs lists those that are.",
)
METHOD_NOT_ALLOWED = ErrorCode(
    "E2041",
    405,
    "This method is not supported here.",
    "The Allow header lists the methods that are.",
)
HTTP_REFUSED = ErrorCode(
    "E2042",
    400,
    "The request cannot be served as it is.",
    "The web framework refused the request before it reached a route; the log line of the request"
    " id says more.",
)

# E3xxx: storage

DATABASE_UNREACHABLE = ErrorCode(
    "E3001",
    503,
    "Database connection failed.",
    "PostgreSQL refused the connection, closed it, or none was free within the wait. A read can be"
    " repeated; of a write it is not known whether it was recorded unless its history is read.",
)
DATABASE_BUSY = ErrorCode(
    "E3002",
    503,
    "The service is too busy at the moment.",
    "A queue or a lock was not free within its bound. Nothing was recorded.",
)
NOT_YET_PROJECTED = ErrorCode(
    "E3003",
    503,
    "The data is not there yet.",
    "The read tables did not reach the position asked for (Annals-Min-Position) within the bound"
    " ANNALS_MIN_POSITION_WAIT_MS. GET /api/projections shows which one lags.",
)
WRITE_CONTENTION = ErrorCode(
    "E3004",
    503,
    "Too many changes to the same thing at once.",
    "The command was decided anew several times and somebody else was always faster. Nothing was"
    " recorded.",
)
STORED_DATA_UNUSABLE = ErrorCode(
    "E3005",
    500,
    "The stored data cannot be used.",
    "PostgreSQL refused a statement, or an event in the log cannot be read by this version. The"
    " log line of the request id has the cause.",
)
UNHEALTHY = ErrorCode(
    "E3006",
    503,
    "Something does not work as it should.",
    "`projections` names each projection with its `reasons`: one makes no progress though there is"
    " something to do, or consumed something else than the log holds. docs/how-to/operate.md says"
    " what to do.",
)
NOT_READY = ErrorCode(
    "E3007",
    503,
    "The service is not ready.",
    "`missing` are migrations and projections of this version that the database does not have, or"
    " `projections` names those that are further behind than ANNALS_READY_LAG_MAX_S.",
)

# E4xxx: network and time

TIMED_OUT = ErrorCode(
    "E4001",
    504,
    "Request timed out.",
    "The database did not answer within the statement timeout. Nothing was recorded.",
)
BODY_TOO_SLOW = ErrorCode(
    "E4002",
    408,
    "The request did not arrive in time.",
    "The body was not complete within ANNALS_BODY_TIMEOUT_S seconds.",
)
UNEXPECTED = ErrorCode(
    "E4500",
    500,
    "Something went wrong on our side.",
    "An error that nobody foresaw. The log has it, with its traceback, under the request id.",
)

# E5xxx: business rules

OPEN_OPPORTUNITIES = ErrorCode(
    "E5001",
    409,
    "Cannot delete an organization with active opportunities.",
    "`opportunityIds` are those that are still open; win, lose or delete them first.",
)
NOT_FOUND = ErrorCode(
    "E5002",
    404,
    "There is no such thing in this workspace.",
    "The id was never used, belongs to another workspace or kind, or the thing is deleted (its"
    " /history still answers), or did not exist at the time asked for.",
)
IS_DELETED = ErrorCode(
    "E5003",
    409,
    "It is deleted; restore it first.",
    "POST …/restore brings it back as it was.",
)
TRANSITION_REFUSED = ErrorCode(
    "E5004",
    409,
    "The status cannot change in this way.",
    "`before` is the status now, `after` the one asked for, `allowed` those that can follow.",
)
ACCOUNT_UNAVAILABLE = ErrorCode(
    "E5005",
    422,
    "The account that this belongs to does not exist or is deleted.",
    "`accountId` is the account asked for.",
)
NOT_A_MEMBER = ErrorCode(
    "E5006",
    422,
    "The person is not a member of this workspace.",
    "`memberId` is the one given as `assignedTo` or `memberId`.",
)
OCCURRED_TOO_EARLY = ErrorCode(
    "E5007",
    409,
    "It cannot have occurred before what is already recorded.",
    "`lastOccurredAt` is the time of the last change that is known; imports meet this.",
)
STALE_VERSION = ErrorCode(
    "E5008",
    412,
    "It has changed since it was read.",
    "If-Match named the version `expected`, the version is `actual`. Read it again, decide again.",
)
KEY_REVOKED = ErrorCode(
    "E5009",
    409,
    "The API key is revoked and stays so.",
    "Issue a new one.",
)
PATCH_TEST_FAILED = ErrorCode(
    "E5010",
    409,
    "A test of the JSON Patch failed.",
    "`operation` is the index of the test, `path` what it looked at. Nothing was changed.",
)
PATCH_NOT_APPLICABLE = ErrorCode(
    "E5011",
    409,
    "The JSON Patch does not fit what is there.",
    "The path of the operation with index `operation` does not exist. Nothing was changed.",
)
TOO_MUCH_HISTORY = ErrorCode(
    "E5012",
    422,
    "There is too much history to look that far back in one answer.",
    "A list as of a time is folded from its events, AS_OF_EVENTS_MAX at the most.",
)

IDEMPOTENCY_KEY_IN_FLIGHT = ErrorCode(
    "E5013",
    409,
    "A request with this idempotency key is still being worked on.",
    "Ask again after `Retry-After` seconds with the same key: the answer is the first one's. Where"
    " the first one failed, it is then done as if for the first time.",
)
UNDO_CONFLICT = ErrorCode(
    "E5014",
    409,
    "Something was changed since, which undoing would overwrite.",
    "`conflicts` names each field with the position and the actor of the later change. Those with"
    " `canForce` are overwritten where `force` names the field; the others have to be cleared up"
    " first, such as what was added to an account that would go.",
)
ALREADY_UNDONE = ErrorCode(
    "E5015",
    409,
    "It has been undone already.",
    "`undonePosition` and `undoneBy` are the event and the command that did; undo that command to"
    " have it again.",
)
NOT_UNDOABLE = ErrorCode(
    "E5016",
    409,
    "This cannot be undone.",
    "It has left the house: an API key was handed out or revoked, a message was sent, a workspace"
    " was founded. `positions` are the events concerned.",
)
NOTHING_TO_UNDO = ErrorCode(
    "E5017",
    404,
    "There is no such change in this workspace.",
    "No event has the position, or no event was recorded by the command: one that changes nothing"
    " records nothing.",
)
TOO_MUCH_TO_UNDO = ErrorCode(
    "E5018",
    422,
    "That is too much to undo at once.",
    "More events than `limit` belong to it.",
)
JOB_UNDER_WAY = ErrorCode(
    "E5020",
    409,
    "Something is done to this projection already.",
    "A rebuild, a rollback or a retry waits or runs; GET /api/projections/{name}/rebuilds shows"
    " it. Wait for its end, or cancel it.",
)
JOB_ENDED = ErrorCode(
    "E5021",
    409,
    "It has ended already.",
    "What is done is not undone by cancelling: POST /api/projections/{name}/rollback goes back.",
)
NOTHING_BEFORE = ErrorCode(
    "E5022",
    409,
    "There is nothing from before to go back to.",
    "Only the tables from before the last swap are kept, and this projection was never swapped.",
)

CODES: Mapping[str, ErrorCode] = MappingProxyType(
    {each.code: each for each in list(globals().values()) if isinstance(each, ErrorCode)}
)
"""All codes, in order."""
