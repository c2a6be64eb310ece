"""E208x: exports."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

TOO_MANY_EXPORTS = ErrorCode(
    "E2080",
    503,
    "Too many exports are in progress.",
    "The maximum of this process is `limit`, the setting ANNALS_EXPORTS_MAX. Each export holds a"
    " database connection until the client has read it or disconnects.",
)
TOO_MANY_EXPORTS_OF_WORKSPACE = ErrorCode(
    "E2081",
    429,
    "Too many exports of this workspace are in progress.",
    "The maximum is `limit`, the setting ANNALS_EXPORTS_PER_WORKSPACE_MAX, so that one workspace"
    " cannot take the capacity of all others.",
)
UNSUPPORTED_EXPORT_FORMAT = ErrorCode(
    "E2082",
    406,
    "This format is not supported.",
    "Exports are CSV (text/csv) or NDJSON (application/x-ndjson), selected by the Accept header"
    " or `?format=`; `supported` lists them.",
)
NO_CONSISTENT_SNAPSHOT = ErrorCode(
    "E2083",
    503,
    "The lists cannot be read at one common log position at the moment.",
    "The projections joined in this export have reached different positions, with events of this"
    " workspace in between, or a rebuild is about to swap their tables. The server waited"
    " SNAPSHOT_WAIT_S seconds for this to pass.",
)
ENTITIES_PARKED = ErrorCode(
    "E2084",
    503,
    "Some of the data to export is unavailable at the moment.",
    "Entities of this workspace are parked because an event of theirs could not be projected. The"
    " export would lack them, so it is refused. `parked` counts them; `annals retry` recovers"
    " them.",
)
TOO_MANY_COLUMNS = ErrorCode(
    "E2085",
    422,
    "There are too many custom fields for a CSV file.",
    "A CSV file has a column for each custom field that occurs, at most CUSTOM_COLUMNS_MAX."
    " NDJSON has no such limit; filters may reduce the number.",
)
