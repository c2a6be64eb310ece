"""E206x and E504x: imports."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

IMPORT_EMPTY = ErrorCode(
    "E2060",
    422,
    "The file is empty.",
    "Its first row must name the columns.",
)
IMPORT_TOO_LARGE = ErrorCode(
    "E2061",
    413,
    "The file is too large to be imported at once.",
    "It exceeds the maximum of bytes (`maxBytes`), rows or columns. Split it.",
)
NOT_A_TABLE = ErrorCode(
    "E2062",
    422,
    "The file cannot be read as a table.",
    "A quote is never closed, a cell is too long, or a column has no name or the name of another."
    " The detail says where. Of corrections: a column of the failed rows is missing.",
)
WRONG_ENCODING = ErrorCode(
    "E2063",
    422,
    "The file is not in this encoding.",
    "The named encoding is not supported, or the file has bytes that are invalid in it. Without one"
    " it is detected.",
)
IMPORT_OPTIONS = ErrorCode(
    "E2064",
    422,
    "The options do not fit the file.",
    "They name a column or a field that does not exist, two columns would become one field, or no"
    " column becomes a field of `dedupeBy`. The detail says which.",
)
NOT_IMPORTABLE = ErrorCode(
    "E2065",
    422,
    "This kind cannot be imported.",
    "The detail names the kinds that can.",
)
WRONG_FORM = ErrorCode(
    "E2066",
    400,
    "The form holds no file.",
    "As multipart/form-data the file is the part `file`; text/csv is the file itself.",
)
IMPORT_GONE = ErrorCode(
    "E2067",
    410,
    "The file was deleted.",
    "Files are stored for ANNALS_IMPORT_KEPT_S seconds, or until the import is deleted. What was"
    " imported stays.",
)
IMPORT_UNDER_WAY = ErrorCode(
    "E5040",
    409,
    "Another import into this workspace is under way.",
    "`jobId` names it. Rows are matched with the entities that exist when an import begins, so one"
    " runs at a time. Wait until it has ended, or cancel it.",
)
IMPORT_STARTED = ErrorCode(
    "E5041",
    409,
    "The import was started already.",
    "`jobId` is its job. Its options cannot be changed any more; upload the file again to import it"
    " with others.",
)
NO_FAILED_ROWS = ErrorCode(
    "E5042",
    409,
    "There are no failed rows to correct.",
    "No row of the import failed, all failed rows were corrected, or it has not ended yet.",
)
