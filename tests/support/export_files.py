"""What tests of exports share: files of rows, read back, and what CSV has of an item."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from domain.shared.cells import without_neutraliser

Item = dict[str, Any]


def objects(ndjson: str) -> list[Item]:
    """The rows of NDJSON; only line feeds end a line, whatever Unicode calls one."""
    *lines, end = ndjson.split("\n")
    assert end == ""
    return [json.loads(line) for line in lines]


def rows(table: str) -> list[dict[str, str]]:
    """The rows of CSV, the cells as they were before they were neutralised."""
    header, *records = csv.reader(io.StringIO(table, newline=""))
    return [dict(zip(header, map(without_neutraliser, record), strict=True)) for record in records]


def as_rows(items: list[Item]) -> list[dict[str, str]]:
    """What CSV has of items: everything but contacts, custom fields each by itself."""
    keys = {key for item in items for key in item["customFields"]}
    return [_row(item, keys) for item in items]


def cell(value: Any) -> str:
    """A value as CSV has it."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _row(item: Item, keys: Iterable[str]) -> dict[str, str]:
    plain = {k: v for k, v in item.items() if k not in ("contacts", "customFields")}
    custom = {f"customFields.{key}": item["customFields"].get(key) for key in keys}
    return {name: cell(value) for name, value in {**plain, **custom}.items()}
