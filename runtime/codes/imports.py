"""Imports."""

from __future__ import annotations

from runtime.codes.code import ErrorCode

IMPORT_EMPTY = ErrorCode(
    "E2060",
    422,
    "The file is empty.",
    "Its first row has to name the columns.",
)
IMPORT_TOO_LARGE = ErrorCode(
    "E2061",
    413,
    "The file is too large to be imported at once.",
    "It has more bytes (`maxBytes`), rows or columns than an import may have. Split it.",
)
NOT_A_TABLE = ErrorCode(
    "E2062",
    422,
    "The file cannot be read as a table.",
    "A quote is never closed, a cell is too long, or a column has no name or the name of another."
    " The detail says where. Of mended rows: a column of the failed rows is missing.",
)
WRONG_ENCODING = ErrorCode(
    "E2063",
    422,
    "The file is not in this encoding.",
    "The encoding that was named cannot be read here, or the file has bytes that mean nothing in"
    " it. Without one it is found out.",
)
IMPORT_OPTIONS = ErrorCode(
    "E2064",
    422,
    "What is asked for does not fit the file.",
    "A column or a field is named that there is not, two columns would become one field, or rows"
    " shall be told apart by a field that no column becomes. The detail says which.",
)
NOT_IMPORTABLE = ErrorCode(
    "E2065",
    422,
    "This cannot be imported.",
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
    "The file is not kept any more.",
    "Files are kept for ANNALS_IMPORT_KEPT_S seconds, or until the import is deleted. What was"
    " imported stays.",
)
IMPORT_UNDER_WAY = ErrorCode(
    "E5040",
    409,
    "Another import into this workspace is under way.",
    "`jobId` names it. Rows are told apart by what is there when an import begins, so there is one"
    " at a time. Wait for its end, or cancel it.",
)
IMPORT_STARTED = ErrorCode(
    "E5041",
    409,
    "The import was started already.",
    "`jobId` is its job. What becomes of the columns cannot be changed any more; hand the file in"
    " again to import it otherwise.",
)
NOTHING_TO_MEND = ErrorCode(
    "E5042",
    409,
    "There is nothing to mend.",
    "No row of the import failed, all that did were mended, or it has not ended yet.",
)
