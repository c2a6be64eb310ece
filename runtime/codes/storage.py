"""E3xxx: storage."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

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
