"""E3xxx: storage."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

DATABASE_UNREACHABLE = ErrorCode(
    "E3001",
    503,
    "Database connection failed.",
    "PostgreSQL refused or closed the connection, or no connection became free in time. A read"
    " can be repeated. Whether a write was recorded can only be found out by reading the history,"
    " or by repeating it with its idempotency key.",
)
DATABASE_BUSY = ErrorCode(
    "E3002",
    503,
    "The service is too busy at the moment.",
    "A queue was full, or a lock was not released in time. Nothing was recorded.",
)
NOT_YET_PROJECTED = ErrorCode(
    "E3003",
    503,
    "The data is not available yet.",
    "The read tables, or the log for its readers, did not reach the requested position"
    " (Annals-Min-Position) within ANNALS_MIN_POSITION_WAIT_MS. GET /api/projections shows which"
    " projection lags.",
)
WRITE_CONTENTION = ErrorCode(
    "E3004",
    503,
    "There are too many concurrent changes to the same entity.",
    "The command was retried several times, and a concurrent write came first every time. Nothing"
    " was recorded.",
)
STORED_DATA_UNUSABLE = ErrorCode(
    "E3005",
    500,
    "The stored data cannot be used.",
    "PostgreSQL refused a statement, or this version cannot read an event in the log. The log"
    " line with the request id has the cause.",
)
UNHEALTHY = ErrorCode(
    "E3006",
    503,
    "The service is unhealthy.",
    "`projections` shows each projection with its `reasons`: it makes no progress although there"
    " are events to process, or the events it consumed differ from the log."
    " docs/how-to/operate.md says what to do.",
)
NOT_READY = ErrorCode(
    "E3007",
    503,
    "The service is not ready.",
    "`missing` lists migrations and projections of this version that the database lacks, or"
    " `projections` those whose lag exceeds ANNALS_READY_LAG_MAX_S.",
)
WRITES_REFUSED = ErrorCode(
    "E3008",
    507,
    "There is no room for writes.",
    "The database accepts no writes: its disk is full or nearly full, or an operator made it"
    " read-only. Nothing was recorded. Reads go on. docs/how-to/operate.md says what to do.",
)
