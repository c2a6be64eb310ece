"""Reference lists: filter and sort all rows of the oracle in Python, without SQL.

The fields and the orders of each list are written out a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from domain.shared.text import folded
from tests.support.kinds import DESCRIBED_KINDS
from tests.support.oracle import SEARCHED, Row, exact, expected_tables

Item = dict[str, Any]

CONTACTS_MAX = 100
SHOWN = {
    "accounts": """id company type status priority nextAction nextActionDate checkSize dealValue
                   opportunity contactCount taskCount meetingCount noteCount
                   openOpportunityCount""",
    "appointments": """id accountId accountName title status memberId memberName startsAt endsAt
                       leadId contactId location notes allowOverlap confirmedAt confirmedBy
                       confirmationNotes cancelReason""",
    "contacts": "id accountId accountName name email phone title",
    "leads": """id name status statusChangedAt company email phone source value nextAction
                nextActionDate notes smsOptOut convertedAccountId convertedContactId
                convertedOpportunityId""",
    "meetings": "id accountId accountName title status startsAt endsAt location agenda",
    "members": "id name email title",
    "notes": "id accountId accountName title body",
    "opportunities": """id accountId accountName name stage value engagedOn expectedCloseOn
                        closedOn""",
    "tasks": "id accountId accountName title status dueDate description",
    **{
        each.kind.PLURAL: "id accountId accountName " * each.kind.BELONGS_TO_ACCOUNT + each.columns
        for each in DESCRIBED_KINDS
    },
}
ENDING = "assignedTo assignedToName customFields createdAt updatedAt version"
TIMES = ["createdAt", "updatedAt", "startsAt", "endsAt", "statusChangedAt", "confirmedAt"]
TIMES += [name for each in DESCRIBED_KINDS for name in each.columns.split() if name.endswith("At")]
OF_CONTACT = "id name email phone title version"
FILTERS = {
    "accounts": "type status priority assignedTo",
    "appointments": "accountId leadId memberId status assignedTo",
    "contacts": "accountId assignedTo",
    "leads": "status source assignedTo",
    "meetings": "accountId status assignedTo",
    "members": "",
    "notes": "accountId assignedTo",
    "opportunities": "accountId stage assignedTo",
    "tasks": "accountId status assignedTo",
    **{each.kind.PLURAL: each.filters for each in DESCRIBED_KINDS},
}


def lower(text: str) -> str:
    """Lower each character alone, like PostgreSQL; `str.lower` treats a final sigma differently."""
    return "".join(char.lower() for char in text)


def _text(name: str) -> Callable[[Row], Any]:
    return lambda row: lower(row[name])


def _last_if_missing(name: str) -> Callable[[Row], Any]:
    return lambda row: (row[name] is None, row[name])


def _columns(*names: str) -> Callable[[Row], Any]:
    return lambda row: tuple(row[name] for name in names)


EVERY_SORT = {"created_at": _columns("created_at"), "updated_at": _columns("updated_at")}
BY_STATUS = {"status": _columns("status", "created_at")}
SORTS: dict[str, dict[str, Callable[[Row], Any]]] = {
    "accounts": {"company": _text("company"), **BY_STATUS, **EVERY_SORT},
    "appointments": {"starts_at": _columns("starts_at"), **BY_STATUS, **EVERY_SORT},
    "contacts": {"name": _text("name"), **EVERY_SORT},
    "leads": {
        "name": _text("name"),
        "status_changed_at": _columns("status_changed_at"),
        "next_action_date": _last_if_missing("next_action_date"),
        **BY_STATUS,
        **EVERY_SORT,
    },
    "meetings": {"starts_at": _last_if_missing("starts_at"), **BY_STATUS, **EVERY_SORT},
    "members": {"name": _text("name"), **EVERY_SORT},
    "notes": EVERY_SORT,
    "opportunities": {
        "name": _text("name"),
        "stage": _columns("stage", "created_at"),
        **EVERY_SORT,
    },
    "tasks": {"due_date": _last_if_missing("due_date"), **BY_STATUS, **EVERY_SORT},
    **{
        each.kind.PLURAL: {
            **{name: _columns(*names.split()) for name, names in each.sorts.items()},
            **EVERY_SORT,
        }
        for each in DESCRIBED_KINDS
    },
}


@dataclass(frozen=True)
class ListRequest:
    """The parameters of a list request."""

    plural: str
    filters: Mapping[str, str] = field(default_factory=dict)
    search: str | None = None
    sort_by: str = "created_at"
    descending: bool = True
    include_contacts: bool = True


class ReferenceLists:
    """The lists of one workspace after some events.

    known: the lists from which names of members and accounts are taken; by default this one.
    """

    def __init__(
        self, events: list[Row], workspace_id: UUID, *, names_from: ReferenceLists | None = None
    ) -> None:
        tables = expected_tables([e for e in events if e["workspace_id"] == workspace_id])
        self.tables = {name: list(rows.values()) for name, rows in tables.items()}
        self._names_from = names_from or self
        self._names = {row["id"]: row["name"] for row in self.tables["members"]}
        self._companies = {row["id"]: row["company"] for row in self.tables["accounts"]}

    def rows(self, plural: str) -> list[Row]:
        """Return all rows of a list, unordered."""
        return [row for row in self.tables[plural] if not row.get("is_deleted")]

    def items(self, request: ListRequest) -> list[Item]:
        """Return all items, in order; a page is a slice of them."""
        rows = [row for row in self.rows(request.plural) if self._matches(row, request)]
        order = SORTS[request.plural][request.sort_by]
        rows.sort(key=lambda row: (order(row), row["id"]), reverse=request.descending)
        return [self._item(row, request) for row in rows]

    def aggregations(self, request: ListRequest) -> dict[str, Any]:
        """Return the aggregations of a list."""
        rows = self.rows(request.plural)
        if request.plural == "accounts":
            type_ = request.filters.get("type")
            of_type = [row for row in rows if type_ is None or row["type"] == type_]
            return {
                "byStatus": Counter(row["status"] for row in of_type),
                "byPriority": Counter(row["priority"] for row in of_type),
                "byType": Counter(row["type"] for row in rows),
            }
        if request.plural == "opportunities":
            return {"byStage": {stage: _stage(rows, stage) for stage in _stages(rows)}}
        if "status" in FILTERS[request.plural].split():
            return {"byStatus": Counter(row["status"] for row in rows)}
        return {}

    def _matches(self, row: Row, request: ListRequest) -> bool:
        for name, value in request.filters.items():
            if str(row[column(name)]) != value:
                return False
        if not request.search:
            return True
        texts = [row[column(name)] or "" for name in SEARCHED[request.plural].split()]
        if request.plural == "accounts":
            texts += [contact["name"] for contact in self._contacts(row["id"])]
        return any(folded(request.search) in folded(text) for text in texts)

    def _contacts(self, account_id: UUID) -> list[Row]:
        contacts = [row for row in self.tables["contacts"] if row["account_id"] == account_id]
        return sorted(contacts, key=lambda row: (row["created_at"], row["id"]))

    def _item(self, row: Row, request: ListRequest) -> Item:
        names = f"{SHOWN[request.plural]} {ENDING}".split()
        row = {
            **row,
            "assigned_to_name": self._names_from._names.get(row["assigned_to"]),
            "member_name": self._names_from._names.get(row.get("member_id")),
            "account_name": self._names_from._companies.get(row.get("account_id")),
        }
        item = {name: _wire(row[column(name)]) for name in names}
        if request.plural == "accounts" and request.include_contacts:
            item["contacts"] = [
                {name: _wire(contact[name]) for name in OF_CONTACT.split()}
                for contact in self._contacts(row["id"])[:CONTACTS_MAX]
            ]
        return item


def comparable(item: Item) -> Item:
    """Return an item of a response with parsed times and custom values in the form of `exact`."""
    times = {
        name: datetime.fromisoformat(item[name]) for name in TIMES if item.get(name) is not None
    }
    custom = {key: exact(value) for key, value in item["customFields"].items()}
    return {**item, **times, "customFields": custom}


def _stages(rows: list[Row]) -> set[str]:
    return {row["stage"] for row in rows}


def _stage(rows: list[Row], stage: str) -> dict[str, Any]:
    values = [row["value"] or 0 for row in rows if row["stage"] == stage]
    return {"count": len(values), "value": f"{sum(values, Decimal(0)):.2f}"}


def column(name: str) -> str:
    """Return the column of a field: `lead_id` for `leadId`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def _wire(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        return f"{value:.2f}"
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    return value
