"""The expected content of every read table, computed from the log by other means.

The projectors change rows event by event. The oracle folds each stream into an entity's state and
then computes the tables from all states at once. It reads the table `events` directly and shares no
code with `projections/`, so that a mistake would have to be made twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import dict_row
from pydantic.alias_generators import to_snake

from domain.shared.text import folded
from eventlog.connections import Connection
from tests.support.kinds import DESCRIBED_KINDS

Row = dict[str, Any]
Tables = dict[str, dict[tuple[Any, ...], Row]]
"""By table: rows by their key, workspace first."""

EVENTS = """
SELECT position, workspace_id, stream_id, stream_version, topic, account_id,
       data, metadata, occurred_at, recorded_at
  FROM public.events WHERE %(all)s OR workspace_id = ANY(%(workspaces)s) ORDER BY position
"""

STEPS = {"converted", "confirmed", "rescheduled", "cancelled", "completed", "missed"}.union(
    *(each.topics for each in DESCRIBED_KINDS)
)
"""Actions of events that record a command of the kind and carry `changes`."""
ENDINGS = {"deleted", "revoked"}
BEGINNINGS = {"created", "issued"}

TABLE_OF = {
    "account": "accounts",
    "appointment": "appointments",
    "api_key": "api_keys",
    "contact": "contacts",
    "lead": "leads",
    "meeting": "meetings",
    "member": "members",
    "note": "notes",
    "opportunity": "opportunities",
    "sms": "sms_messages",
    "task": "tasks",
    "workspace": "workspaces",
    **{each.kind.KIND: each.kind.PLURAL for each in DESCRIBED_KINDS},
}
COLUMNS = {
    "account": """company type status priority nextAction nextActionDate checkSize dealValue
                  opportunity""",
    "appointment": """title status memberId startsAt endsAt leadId contactId location notes
                      allowOverlap confirmedAt confirmedBy confirmationNotes cancelReason""",
    "api_key": "name role memberId expiresAt secretSha256",
    "contact": "name email phone title",
    "lead": """name status company email phone source value nextAction nextActionDate notes
                smsOptOut convertedAccountId convertedContactId convertedOpportunityId""",
    "meeting": "title status startsAt endsAt location agenda",
    "member": "name email title",
    "note": "title body",
    "opportunity": "name stage value engagedOn expectedCloseOn closedOn",
    "sms": "leadId phone message templateId status gatewayId error errorCode",
    "task": "title status dueDate description",
    "workspace": "name",
    **{each.kind.KIND: each.columns for each in DESCRIBED_KINDS},
}
JSON_CHARS = dict(zip('"\\[]\t\n\r', "\ue000\ue001\ue002\ue003\ue004\ue005\ue006", strict=True))
"""How the names of an account's contacts are stored to be joined."""
COLUMN_NAMES = {
    "allowOverlap": "allow_overlap",
    "assignedTo": "assigned_to",
    "cancelReason": "cancel_reason",
    "checkSize": "check_size",
    "closedOn": "closed_on",
    "confirmationNotes": "confirmation_notes",
    "confirmedAt": "confirmed_at",
    "confirmedBy": "confirmed_by",
    "contactId": "contact_id",
    "convertedAccountId": "converted_account_id",
    "convertedContactId": "converted_contact_id",
    "convertedOpportunityId": "converted_opportunity_id",
    "dealValue": "deal_value",
    "dueDate": "due_date",
    "endsAt": "ends_at",
    "engagedOn": "engaged_on",
    "errorCode": "error_code",
    "expectedCloseOn": "expected_close_on",
    "expiresAt": "expires_at",
    "gatewayId": "gateway_id",
    "leadId": "lead_id",
    "memberId": "member_id",
    "templateId": "template_id",
    "nextAction": "next_action",
    "nextActionDate": "next_action_date",
    "secretSha256": "secret_sha256",
    "smsOptOut": "sms_opt_out",
    "startsAt": "starts_at",
    **{name: to_snake(name) for each in DESCRIBED_KINDS for name in each.columns.split()},
}
CONVERSIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            *("assignedTo", "memberId", "leadId", "contactId"),
            *("convertedAccountId", "convertedContactId", "convertedOpportunityId"),
        ),
        UUID,
    ),
    **dict.fromkeys(("smsOptOut", "allowOverlap"), bool),
    **dict.fromkeys(("checkSize", "dealValue", "value"), Decimal),
    **dict.fromkeys(("startsAt", "endsAt", "expiresAt", "confirmedAt"), datetime.fromisoformat),
    **dict.fromkeys(
        ("nextActionDate", "dueDate", "engagedOn", "expectedCloseOn", "closedOn"),
        date.fromisoformat,
    ),
    **{name: convert for each in DESCRIBED_KINDS for name, convert in each.conversions.items()},
}
SEARCHED = {
    "accounts": "company",
    "appointments": "title",
    "contacts": "name",
    "leads": "name company email",
    "meetings": "title",
    "members": "name",
    "notes": "body",
    "opportunities": "name",
    "tasks": "title",
    **{each.kind.PLURAL: each.searched for each in DESCRIBED_KINDS},
}
"""The columns by which each list is searched."""
COUNTS = {
    "account_counts": ("accounts", ("type", "status", "priority", "assigned_to")),
    "account_totals": ("accounts", ()),
    "appointment_counts": ("appointments", ("status", "member_id", "assigned_to")),
    "contact_counts": ("contacts", ("assigned_to",)),
    "lead_counts": ("leads", ("status", "source", "assigned_to")),
    "meeting_counts": ("meetings", ("status", "assigned_to")),
    "member_counts": ("members", ("is_deleted",)),
    "note_counts": ("notes", ("assigned_to",)),
    "opportunity_counts": ("opportunities", ("stage", "assigned_to")),
    "task_counts": ("tasks", ("status", "assigned_to")),
    **{f"{each.kind.KIND}_counts": (each.kind.PLURAL, each.counted) for each in DESCRIBED_KINDS},
}
"""The tables of counts: what each counts, and by which columns."""
ACTIONS = {
    **dict.fromkeys(BEGINNINGS, "create"),
    **dict.fromkeys(ENDINGS, "delete"),
    "updated": "update",
    "restored": "restore",
    "status_changed": "status_change",
    "stage_changed": "status_change",
    **dict.fromkeys(STEPS, "status_change"),
}
LINKED_TO_ACCOUNT = {"appointment", "contact", "meeting", "note", "opportunity", "task"} | {
    each.kind.KIND for each in DESCRIBED_KINDS if each.kind.BELONGS_TO_ACCOUNT
}
WITH_STATUS_DATE = {"lead"}
"""Kinds with the column `status_changed_at`."""


@dataclass
class EntityState:
    """The state of one entity after its events."""

    kind: str
    workspace_id: UUID
    id: UUID
    account_id: UUID | None
    created_at: datetime
    updated_at: datetime
    version: int
    fields: dict[str, Any]
    custom: dict[str, Any] = field(default_factory=dict)
    is_deleted: bool = False
    status_changed_at: datetime | None = None

    def apply(self, event: Row) -> None:
        """Apply the next event of the stream."""
        action, data = event["topic"].split(".")[1], event["data"]
        self.version, self.updated_at = event["stream_version"], event["occurred_at"]
        if action in BEGINNINGS or action == "restored":
            self.fields = {k: v for k, v in data["fields"].items() if k != "customFields"}
            self.custom = dict(data["fields"].get("customFields", {}))
            self.account_id = event["account_id"]
            self.is_deleted = False
            since = data.get("statusChangedAt")
            self.status_changed_at = datetime.fromisoformat(since) if since else self.updated_at
        elif action in ENDINGS:
            self.is_deleted = True
        elif action in {"updated", "merged"} or action in STEPS:
            if "status" in data["changes"]:
                self.status_changed_at = self.updated_at
            for name, change in data["changes"].items():
                self._set(name, change["after"])
        elif action in {"status_changed", "stage_changed"}:
            self.fields[action.removesuffix("_changed")] = data["after"]
            self.status_changed_at = self.updated_at
        else:
            raise AssertionError(f"the oracle does not know {event['topic']}")

    def _set(self, name: str, value: Any) -> None:
        head, dot, key = name.partition(".")
        target = self.custom if dot else self.fields
        assert head == "customFields" or not dot
        target[key if dot else name] = value
        if value is None:
            del target[key if dot else name]

    def row(self) -> Row:
        """Return the entity's row, without columns that other entities contribute."""
        names = [*COLUMNS[self.kind].split(), "assignedTo"]
        row = {COLUMN_NAMES.get(name, name): self._value(name) for name in names}
        for name in SEARCHED.get(TABLE_OF[self.kind], "").split():
            row[f"{name}_folded"] = row[name] if row[name] is None else folded(row[name])
        row |= {
            "workspace_id": self.workspace_id,
            "id": self.id,
            "custom_fields": {key: exact(value) for key, value in self.custom.items()},
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "version": self.version,
        }
        if self.kind in LINKED_TO_ACCOUNT:
            row["account_id"] = self.account_id
        if self.kind in WITH_STATUS_DATE:
            row["status_changed_at"] = self.status_changed_at
        return row

    def _value(self, name: str) -> Any:
        value = self.fields.get(name)
        return value if value is None else CONVERSIONS.get(name, str)(value)


def job_rows(events: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """Return the row of every job after these events."""
    found: dict[tuple[Any, ...], Row] = {}
    for event in events:
        kind, what = event["topic"].split(".")
        if kind != "job":
            continue
        data, at = event["data"], event["occurred_at"]
        if what == "requested":
            found[event["workspace_id"], event["stream_id"]] = {
                **dict.fromkeys(("failure", "started_at", "ended_at")),
                **dict.fromkeys(("processed", "succeeded", "failed", "errors_total"), 0),
                "workspace_id": event["workspace_id"],
                "id": event["stream_id"],
                "kind": data["work"],
                "status": "waiting",
                "parameters": data["parameters"],
                "total": data["total"],
                "counts": {},
                "errors": {},
                "command_id": event["metadata"].get("commandId"),
                "requested_by": event["metadata"]["actor"],
                "created_at": at,
            }
        row = found[event["workspace_id"], event["stream_id"]]
        row |= {"version": event["stream_version"], "updated_at": at}
        if what == "started":
            row |= {"status": "running", "started_at": at}
        elif what == "progressed":
            for name in ("total", "processed", "succeeded", "failed", "counts"):
                row[name] = data[name]
            row["errors_total"] = data["errorsTotal"]
            row["errors"] = {**row["errors"], **data["errors"]}
        elif what in {"completed", "failed", "cancelled"}:
            row |= {"status": what, "ended_at": at, "failure": data.get("error")}
        else:
            assert what == "requested", f"the oracle does not know {event['topic']}"
    return found


def recorded_events(connection: Connection, workspaces: Iterable[UUID] = ()) -> list[Row]:
    """Return the events of these workspaces, by default of all, in order of position."""
    parameters = {"all": not workspaces, "workspaces": list(workspaces)}
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(EVENTS, parameters).fetchall()


def entity_states(events: Iterable[Row]) -> list[EntityState]:
    """Return the state of each entity after these events, in order of creation."""
    found: dict[UUID, EntityState] = {}
    for event in events:
        if event["topic"].startswith("job."):
            continue
        state = found.get(event["stream_id"])
        if state is None:
            state = found[event["stream_id"]] = EntityState(
                kind=event["topic"].split(".")[0],
                workspace_id=event["workspace_id"],
                id=event["stream_id"],
                account_id=event["account_id"],
                created_at=event["occurred_at"],
                updated_at=event["occurred_at"],
                version=0,
                fields={},
            )
        assert event["stream_version"] == state.version + 1
        state.apply(event)
    return list(found.values())


def expected_tables(events: list[Row]) -> Tables:
    """Return every read table after these events."""
    states = entity_states(events)
    tables: Tables = {table: {} for table in TABLE_OF.values()}
    children = _children(states)
    for state in states:
        row = state.row()
        if state.kind == "member":
            row["is_deleted"] = state.is_deleted
        elif state.is_deleted:
            continue
        elif state.kind == "account":
            row |= _account_counters(children[state.id])
            names = row["contact_names_folded"]
            lines = [_joinable(row["company_folded"]), *(names[each] for each in sorted(names))]
            row["texts"] = "\n".join(lines) if names else f"{lines[0]}\n"
        tables[TABLE_OF[state.kind]][(state.workspace_id, state.id)] = row
    for counts, (table, by) in COUNTS.items():
        tables[counts] = _counted(tables[table].values(), by, summed=table == "opportunities")
    tables["jobs"] = job_rows(events)
    return tables


def audit_entries(events: list[Row]) -> list[Row]:
    """Return the columns by which the audit trail finds these events, in order of position."""
    return [_audit_entry(event) for event in events]


def actual_tables(connection: Connection, workspaces: Iterable[UUID] = ()) -> Tables:
    """Return the actual read tables in the form of `expected_tables`. Needs a superuser."""
    names = (*TABLE_OF.values(), *COUNTS, "jobs")
    return {name: _read(connection, name, list(workspaces)) for name in names}


def differences(expected: Tables, actual: Tables) -> list[str]:
    """Return a line for each row that is missing, superfluous or different."""
    return [
        f"{name} {key}:\n  not {actual[name].get(key)}\n  but {expected[name].get(key)}"
        for name in expected
        for key in sorted({*expected[name], *actual[name]}, key=str)
        if expected[name].get(key) != actual[name].get(key)
    ]


def assert_tables_match_log(connection: Connection, workspaces: Iterable[UUID] = ()) -> None:
    """Assert that the read tables of these workspaces, or all, match the log. Needs a superuser."""
    expected = expected_tables(recorded_events(connection, workspaces))
    problems = differences(expected, actual_tables(connection, workspaces))
    assert not problems, "\n".join(problems)
    parked = connection.execute("SELECT * FROM projection_parked").fetchall()
    assert not parked, "entities are parked"


def expected_claims(events: list[Row]) -> dict[UUID, tuple[Any, ...]]:
    """Return the claimed times after these events, by appointment."""
    return {
        state.id: (
            state.workspace_id,
            UUID(state.fields["memberId"]),
            datetime.fromisoformat(state.fields["startsAt"]),
            datetime.fromisoformat(state.fields["endsAt"]),
            state.fields.get("allowOverlap", False),
        )
        for state in entity_states(events)
        if state.kind == "appointment"
        and not state.is_deleted
        and state.fields["status"] in {"scheduled", "confirmed", "completed"}
    }


def assert_claims_match_log(connection: Connection, workspaces: Iterable[UUID] = ()) -> None:
    """Assert that claimed times match the log and do not overlap unless one of them may."""
    expected = expected_claims(recorded_events(connection, workspaces))
    rows = connection.execute(
        """SELECT entity_id, workspace_id, holder_id, starts_at, ends_at, may_overlap
             FROM claimed_times WHERE %(all)s OR workspace_id = ANY(%(workspaces)s)""",
        {"all": not workspaces, "workspaces": list(workspaces)},
    ).fetchall()
    assert {row[0]: tuple(row[1:]) for row in rows} == expected
    strict = [claim[:4] for claim in expected.values() if not claim[4]]
    for number, (workspace, holder, starts, ends) in enumerate(strict):
        for other in strict[:number]:
            assert other[:2] != (workspace, holder) or other[2] >= ends or other[3] <= starts


def exact(value: Any) -> tuple[str, Any]:
    """Return a JSON value with its type, because Python finds True and 1 equal.

    Numbers become floats, so that 1e3 and 1000 are equal.
    """
    if isinstance(value, (str, bool)):
        return type(value).__name__, value
    return "number", float(value)


def _children(states: Iterable[EntityState]) -> dict[UUID | None, list[EntityState]]:
    children: dict[UUID | None, list[EntityState]] = defaultdict(list)
    for state in states:
        if not state.is_deleted:
            children[state.account_id].append(state)
    return children


def _account_counters(children: list[EntityState]) -> Row:
    def count(kind: str, without: Iterable[str] = ()) -> int:
        mine = [child.fields for child in children if child.kind == kind]
        return sum(not {f.get("status"), f.get("stage")} & set(without) for f in mine)

    return {
        "contact_count": count("contact"),
        "task_count": count("task", without=["done"]),
        "meeting_count": count("meeting"),
        "note_count": count("note"),
        "open_opportunity_count": count("opportunity", without=["won", "lost"]),
        "contact_names_folded": {
            str(child.id): _joinable(folded(name))
            for child in children
            if child.kind == "contact" and (name := child.fields["name"])
        },
    }


def _joinable(text: str) -> str:
    return "".join(JSON_CHARS.get(char, char) for char in text)


def _counted(rows: Iterable[Row], by: tuple[str, ...], *, summed: bool) -> dict[Any, Row]:
    counts: dict[Any, Row] = {}
    for row in rows:
        key = (row["workspace_id"], *(row[column] for column in by))
        counter = counts.setdefault(key, {"n": 0, "value": Decimal(0)} if summed else {"n": 0})
        counter["n"] += 1
        if summed:
            counter["value"] += row["value"] or 0
    return counts


def _audit_entry(event: Row) -> Row:
    kind, what = event["topic"].split(".")
    actor = event["metadata"].get("actor", {})
    return {
        "workspace_id": event["workspace_id"],
        "position": event["position"],
        "entity_type": kind,
        "entity_id": event["stream_id"],
        "action": _action(what, event),
        "actor_id": actor.get("id"),
        "key_id": event["metadata"].get("keyId"),
        "command_id": event["metadata"].get("commandId"),
        "recorded_at": event["recorded_at"],
    }


def _action(what: str, event: Row) -> str:
    if "undoesPosition" in event["metadata"]:
        return "undo"
    if {"movedTo", "movedFrom"} & event["data"].keys():
        return "move"
    if event["topic"].startswith("job."):
        return what
    return "merge" if what == "merged" or "mergedInto" in event["data"] else ACTIONS.get(what, what)


def _read(connection: Connection, name: str, workspaces: list[UUID]) -> dict[Any, Row]:
    table = sql.Identifier("read", name)
    described = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table)).description
    # Columns that end in _key are generated and may be infinite.
    columns = [each.name for each in described or () if not each.name.endswith("_key")]
    query = sql.SQL("SELECT {} FROM {} WHERE %s OR workspace_id = ANY(%s)").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), table
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, (not workspaces, workspaces)).fetchall()
    rows = [_readable(row) for row in rows]
    if name not in COUNTS:
        return {(row["workspace_id"], row["id"]): row for row in rows}
    _, by = COUNTS[name]
    return {
        (row["workspace_id"], *(row[column] for column in by)): {
            column: row[column] for column in ("n", "value") if column in row
        }
        for row in rows
        if row["n"] or row.get("value")
    }


def _readable(row: Row) -> Row:
    """Return the row with its custom values in the form of `exact`."""
    if "custom_fields" in row:
        row["custom_fields"] = {key: exact(value) for key, value in row["custom_fields"].items()}
    return row
