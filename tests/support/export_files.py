"""Helpers for tests of exports: parse exported files, and convert items to their CSV rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from domain.shared.text import without_neutraliser

Item = dict[str, Any]


def objects(ndjson: str) -> list[Item]:
    """Parse NDJSON; only line feeds end a line, not Unicode's other line separators."""
    *lines, end = ndjson.split("\n")
    assert end == ""
    return [json.loads(line) for line in lines]


def rows(table: str) -> list[dict[str, str]]:
    """Parse CSV and remove the neutralising prefix of its cells."""
    header, *records = csv.reader(io.StringIO(table, newline=""))
    return [dict(zip(header, map(without_neutraliser, record), strict=True)) for record in records]


def as_rows(items: list[Item]) -> list[dict[str, str]]:
    """Convert items to CSV rows: without contacts, and with a column for each custom field."""
    keys = {key for item in items for key in item["customFields"]}
    return [_row(item, keys) for item in items]


def cell(value: Any) -> str:
    """Return the CSV cell of a value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _row(item: Item, keys: Iterable[str]) -> dict[str, str]:
    plain = {k: v for k, v in item.items() if k not in ("contacts", "customFields")}
    custom = {f"customFields.{key}": item["customFields"].get(key) for key in keys}
    return {name: cell(value) for name, value in {**plain, **custom}.items()}
