"""In which order the dates of a file are written, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from commands.importing.cells import DateOrder, DetectedOrder, OrderSeen
from commands.importing.findings import Finding, warning
from commands.importing.options import Column
from commands.importing.tables import SourceTable

HEADER_ROW = 1


def detect_orders(
    columns: Sequence[Column], table: SourceTable, told: DateOrder | None
) -> tuple[dict[str, DateOrder], list[Finding]]:
    """The order of each column of dates, and what is doubtful. Reads the whole file once.

    Where a column does not tell, it is as the other columns of the file, if they agree; `told`
    settles it for all.
    """
    dated = [each.name for each in columns if each.has_dates and each.name]
    if told is not None or not dated:
        return (dict.fromkeys(dated, told) if told else {}), []
    seen = {name: OrderSeen() for name in dated if name}
    for row in table.rows():
        for name, each in seen.items():
            if value := row.cells.get(name):
                each.add(value)
    detected = {name: found for name, each in seen.items() if (found := each.order)}
    certain = {found.order for found in detected.values() if found.is_certain}
    orders: dict[str, DateOrder] = {}
    doubts: list[Finding] = []
    for name, found in detected.items():
        orders[name] = found.order
        if found.is_ambiguous and len(certain) == 1:
            orders[name] = next(iter(certain))
        elif not found.is_certain:
            doubts.append(_doubtful(name, found))
    return orders, doubts


def with_orders(columns: Sequence[Column], orders: Mapping[str, DateOrder]) -> list[Column]:
    """The columns, each with the order that its dates are written in."""
    return [replace(each, dates=orders.get(each.name, each.dates)) for each in columns]


def _doubtful(column: str, detected: DetectedOrder) -> Finding:
    what = "No date tells the order"
    if detected.is_mixed:
        what = "Some dates are day first, others month first"
    order = {DateOrder.MDY: "month/day/year", DateOrder.DMY: "day/month/year"}[detected.order]
    message = f"{what}: read as {order}; the option dates says otherwise."
    return warning(HEADER_ROW, column, "", "doubtful_dates", message)
