"""As-of readings: an entity, or a list with its counts, as of a version or a time.

The time is when events occurred. An import may date events long before it records them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.application import AggregateNotFoundError
from psycopg_pool import ConnectionPool
from pydantic.alias_generators import to_camel

from domain.shared.entity import Entity
from domain.shared.kinds import BY_PLURAL
from domain.shared.text import folded
from eventlog.connections import Connection, set_workspace
from eventlog.reading import RecordedEvent, to_event
from eventlog.reading.history import OCCURRED
from eventlog.scope import Scope
from eventlog.store.log import EventLog, evolve
from projections.changes import column
from projections.engine.registry import PROJECTIONS
from projections.engine.rows.memory import MemoryTables
from projections.lifecycle import FOLDED

AS_OF_EVENTS_MAX = 2_000_000
"""Maximum number of events folded for one request."""
AS_OF_FETCH_EVENTS = 5_000
"""Number of rows that the cursor fetches at a time."""

CONTACTS_PER_ITEM_MAX = 100

CONTRIBUTING_KINDS = {"accounts": ("account", "contact", "task", "meeting", "note", "opportunity")}
"""By list: the kinds on whose events its rows depend, if there are others than its own."""
NAMED_KINDS = ("member", "account")
"""Kinds whose names a list shows. Names are the current ones, even those recorded later."""

Lists = dict[str, dict[str, dict[str, Any]]]
"""Rows by list and id."""


class TooMuchHistory(Exception):
    """The reading needs more events than `AS_OF_EVENTS_MAX`."""


@dataclass(frozen=True)
class AsOfQuery:
    """A page of a list as of a time. Filters are by wire name, and are valid."""

    workspace_id: UUID
    plural: str
    at: datetime
    filters: Mapping[str, str] = field(default_factory=dict)
    search: str | None = None
    sort_by: str = "created_at"
    descending: bool = True
    page: int = 1
    page_size: int = 50
    include_contacts: bool = True
    include_stats: bool = False


def entity_as_of(
    log: EventLog,
    scope: Scope,
    kind: type[Entity],
    entity_id: UUID,
    *,
    version: int | None = None,
    at: datetime | None = None,
) -> dict[str, Any] | None:
    """Load an entity as of a version or a time; None if it did not exist or was deleted then."""
    with log.scoped(scope):
        try:
            entity: Entity = log.repository.get(
                entity_id, version=version, projector_func=_evolve_until(at)
            )
        except AggregateNotFoundError:
            return None
    if not isinstance(entity, kind) or entity.is_deleted:
        return None
    if version is not None and entity.version != version:
        return None  # the entity has not reached this version yet
    return representation(entity)


def representation(entity: Entity) -> dict[str, Any]:
    """An entity in the form of the API, without the names and counts that come from others."""
    account = {"accountId": entity.account_id} if entity.BELONGS_TO_ACCOUNT else {}
    fields = {name: entity.values.get(name) for name in entity.FIELDS.wire_names()}
    fields["customFields"] = fields.get("customFields") or {}
    dated = {"statusChangedAt": entity.status_changed_at} if entity.HAS_STATUS_DATE else {}
    return {
        "id": entity.id,
        **account,
        **fields,
        **dated,
        "createdAt": entity.created_on,
        "updatedAt": entity.modified_on,
        "version": entity.version,
    }


def list_as_of(pool: ConnectionPool[Connection], query: AsOfQuery) -> bytes:
    """Read a page of a list as of a time: `{items, pagination, aggregations?}` as JSON.

    Raises `TooMuchHistory`.
    """
    kinds = {BY_PLURAL[query.plural].KIND, *CONTRIBUTING_KINDS.get(query.plural, ())}
    names = set(NAMED_KINDS) - kinds
    plurals = [kind.PLURAL for kind in BY_PLURAL.values() if kind.KIND in kinds | names]
    tables = MemoryTables(PROJECTIONS[plural] for plural in plurals)
    with pool.connection() as connection, connection.transaction():
        set_workspace(connection, query.workspace_id)
        for event in _read_occurred(connection, query, sorted(kinds), sorted(names)):
            tables.apply(event)
    lists = {
        name: {key[1]: {"id": key[1], **row} for key, row in rows.items()}
        for name, rows in tables.tables.items()
    }
    return orjson.dumps(_answer(lists, query))


def _evolve_until(at: datetime | None) -> Callable[[Any, Iterable[Any]], Any]:
    if at is None:
        return evolve
    return lambda entity, events: evolve(entity, (e for e in events if e.timestamp <= at))


def _read_occurred(
    connection: Connection, query: AsOfQuery, kinds: list[str], names: list[str]
) -> Iterator[RecordedEvent]:
    with connection.cursor(name="as_of") as cursor:
        cursor.itersize = AS_OF_FETCH_EVENTS
        parameters = {
            "workspace": query.workspace_id,
            "types": kinds + names,
            "names": names,
            "at": query.at,
            "limit": AS_OF_EVENTS_MAX + 1,
        }
        cursor.execute(OCCURRED, parameters)
        for number, row in enumerate(cursor):
            if number == AS_OF_EVENTS_MAX:
                raise TooMuchHistory
            yield to_event(row)


def _answer(lists: Lists, query: AsOfQuery) -> dict[str, Any]:
    existing = [row for row in lists[query.plural].values() if not row.get("is_deleted", False)]
    contacts = _contacts_by_account(lists) if query.plural == "accounts" else {}
    rows = sorted(
        (row for row in existing if _matches(row, query, contacts)),
        key=lambda row: _sort_key(row, query.sort_by),
        reverse=query.descending,
    )
    start = (query.page - 1) * query.page_size
    page = rows[start : start + query.page_size]
    answer: dict[str, Any] = {
        "items": [_item(row, query, lists, contacts) for row in page],
        "pagination": {
            "page": query.page,
            "pageSize": query.page_size,
            "totalItems": len(rows),
            "totalIsExact": True,
            "totalPages": -(-len(rows) // query.page_size),
            "nextCursor": None,
        },
    }
    if query.include_stats:
        answer["aggregations"] = _aggregations(existing, query)
    return answer


def _contacts_by_account(lists: Lists) -> dict[str, list[dict[str, Any]]]:
    contacts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(lists["contacts"].values(), key=lambda row: _sort_key(row, "created_at")):
        contacts[row["account_id"]].append(row)
    return contacts


def _matches(
    row: Mapping[str, Any], query: AsOfQuery, contacts: Mapping[str, list[dict[str, Any]]]
) -> bool:
    if any(row.get(column(name)) != value for name, value in query.filters.items()):
        return False
    if not query.search:
        return True
    needle = folded(query.search)
    searched = BY_PLURAL[query.plural].SEARCH_FIELDS
    texts = [row.get(f"{column(name)}{FOLDED}") or "" for name in searched]
    texts += [contact[f"name{FOLDED}"] for contact in contacts.get(row["id"], ())]
    return any(needle in text for text in texts)


def _sort_key(row: Mapping[str, Any], sort_by: str) -> tuple[Any, ...]:
    """The sort key of a row. Missing values sort above all others, as in the read tables."""
    names = (sort_by, "created_at", "id") if sort_by in {"status", "stage"} else (sort_by, "id")
    return tuple(_sortable(name, row.get(name)) for name in names)


def _sortable(name: str, value: str | None) -> tuple[bool, Any]:
    if value is None:
        return True, None
    return False, datetime.fromisoformat(value) if name.endswith("_at") else _lower(value)


def _lower(text: str) -> str:
    """Lower each character alone, as PostgreSQL does; Python has a rule for a final sigma."""
    return "".join(char.lower() for char in text)


def _item(
    row: Mapping[str, Any],
    query: AsOfQuery,
    lists: Lists,
    contacts: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    kind = BY_PLURAL[query.plural]
    item: dict[str, Any] = dict.fromkeys(kind.FIELDS.wire_names())
    item.update(
        (to_camel(name), value)
        for name, value in row.items()
        if name != "is_deleted" and not name.endswith(FOLDED)
    )
    item["assignedToName"] = lists["members"].get(row.get("assigned_to") or "", {}).get("name")
    if "memberId" in item:
        item["memberName"] = lists["members"].get(item["memberId"] or "", {}).get("name")
    if kind.BELONGS_TO_ACCOUNT:
        account_id = item.setdefault("accountId", None)
        item["accountName"] = lists["accounts"].get(account_id or "", {}).get("company")
    if query.plural == "accounts" and query.include_contacts:
        item["contacts"] = [
            {name: each.get(name) for name in ("id", "name", "email", "phone", "title", "version")}
            for each in contacts.get(row["id"], ())[:CONTACTS_PER_ITEM_MAX]
        ]
    return item


def _aggregations(rows: list[dict[str, Any]], query: AsOfQuery) -> dict[str, Any]:
    if query.plural == "accounts":
        type_ = query.filters.get("type")
        of_type = [row for row in rows if type_ is None or row["type"] == type_]
        return {
            "byStatus": Counter(row["status"] for row in of_type),
            "byPriority": Counter(row["priority"] for row in of_type),
            "byType": Counter(row["type"] for row in rows),
        }
    if query.plural == "opportunities":
        stages = sorted({row["stage"] for row in rows})
        return {"byStage": {stage: _stage_totals(rows, stage) for stage in stages}}
    if BY_PLURAL[query.plural].STATUS_FIELD:
        return {"byStatus": Counter(row["status"] for row in rows)}
    return {}


def _stage_totals(rows: list[dict[str, Any]], stage: str) -> dict[str, Any]:
    values = [row.get("value") for row in rows if row["stage"] == stage]
    total = sum((Decimal(value) for value in values if value), Decimal("0.00"))
    return {"count": len(values), "value": str(total)}
