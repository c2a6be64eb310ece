"""E208x: exports."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TOO_MANY_EXPORTS = ErrorCode(
    "E2080",
    503,
    "Too many exports are under way.",
    "This process streams as many as ANNALS_EXPORTS_MAX allows; each holds a database connection"
    " until its reader has it all or goes away. `limit` tells how many.",
)
TOO_MANY_EXPORTS_OF_WORKSPACE = ErrorCode(
    "E2081",
    429,
    "Too many exports of this workspace are under way.",
    "ANNALS_EXPORTS_PER_WORKSPACE_MAX of them are streamed at once, lest one workspace keep all"
    " others waiting. `limit` tells how many.",
)
UNSUPPORTED_EXPORT_FORMAT = ErrorCode(
    "E2082",
    406,
    "It cannot be had in this format.",
    "Exports are CSV (text/csv) or NDJSON (application/x-ndjson), as the Accept header or"
    " `?format=` says; `supported` lists them.",
)
NO_CONSISTENT_SNAPSHOT = ErrorCode(
    "E2083",
    503,
    "The lists do not stand at one point of the log just now.",
    "Projections that are joined in this export have read differently far, and something happened"
    " in this workspace in between; or a rebuild is about to exchange their tables. That it passes"
    " was waited for SNAPSHOT_WAIT_S seconds.",
)
ENTITIES_PARKED = ErrorCode(
    "E2084",
    503,
    "Some of what would be exported cannot be shown for now.",
    "Entities of this workspace are parked because a projector could not digest an event. The"
    " export would lack them, so there is none; `parked` counts them, `annals retry` brings them"
    " back.",
)
TOO_MANY_COLUMNS = ErrorCode(
    "E2085",
    422,
    "There are too many custom fields for a table.",
    "A CSV file has a column for each custom field that occurs, CUSTOM_COLUMNS_MAX at the most."
    " NDJSON has no such limit; filters may help too.",
)
