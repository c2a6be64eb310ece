"""Recorded samples of events: every topic in every version ever written.

    python -m tests.support.event_samples

writes missing samples and never changes an existing one. If a test passes only after a sample has
been changed, recorded history can no longer be read: add an upcaster (eventlog/upcast.py) instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import orjson

from domain.account import Account
from domain.api_key import ApiKey
from domain.appointment import Appointment
from domain.contact import Contact
from domain.job import ItemError, Job, JobStep
from domain.lead import Lead
from domain.meeting import Meeting
from domain.member import Member
from domain.note import Note
from domain.opportunity import Opportunity
from domain.shared.entity import Entity, RecordedAggregate
from domain.shared.kinds import KINDS
from domain.shared.merging import MergeableEntity
from domain.shared.refusals import KeyRevoked
from domain.sms import Sms
from domain.task import Task
from domain.workspace import Workspace
from eventlog.store.mapper import EventMapper, LogEvent, OrjsonTranscoder
from runtime.settings import REPOSITORY
from tests.support.kinds import DESCRIBED_KINDS

SAMPLES = REPOSITORY / "tests" / "samples"
Sample = dict[str, Any]

WORKSPACE = UUID(int=1)
ACCOUNT = UUID(int=2)
OTHER = UUID(int=4)
MEMBER = "00000000-0000-0000-0000-000000000003"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
COMMON = {
    "assignedTo": MEMBER,
    "customFields": {"sector": "food", "seats": 5, "share": 0.25, "vip": True},
}
FULL: dict[type[Entity], dict[str, Any]] = {
    Account: {
        "company": "Acme — Ünïcode & Söhne",
        "type": "customer",
        "status": "active",
        "priority": "high",
        "nextAction": "Send the offer",
        "nextActionDate": "2026-02-28",
        "dealValue": "1200.50",
    },
    ApiKey: {
        "name": "Nightly sync",
        "role": "read-only",
        "memberId": MEMBER,
        "expiresAt": "2027-01-01T00:00:00+00:00",
        "secretSha256": "0123456789abcdef" * 4,
    },
    Appointment: {
        "title": "First call",
        "memberId": MEMBER,
        "startsAt": "2026-02-01T10:00:00+00:00",
        "endsAt": "2026-02-01T10:30:00+00:00",
        "status": "scheduled",
        "leadId": "00000000-0000-0000-0000-000000000006",
        "contactId": "00000000-0000-0000-0000-000000000004",
        "location": "Room 4",
        "notes": "Bring the papers.",
        "allowOverlap": False,
    },
    Contact: {
        "name": "Ada Lovelace",
        "email": "ada@example.com",
        "phone": "+44 20 7946 0000",
        "title": "CFO",
    },
    Lead: {
        "name": "Ada Lovelace",
        "status": "new",
        "company": "Analytical Engines",
        "email": "ada@example.com",
        "phone": "+44 20 7946 0000",
        "source": "website",
        "value": "1200.50",
        "nextAction": "Call back",
        "nextActionDate": "2026-02-28",
        "notes": "Likes engines.\nAnd numbers.",
        "smsOptOut": False,
    },
    Meeting: {
        "title": "Kick-off",
        "status": "scheduled",
        "startsAt": "2026-02-01T10:00:00+00:00",
        "endsAt": "2026-02-01T11:30:00.250000+00:00",
        "location": "Room 4",
        "agenda": "Hello\nOffer",
    },
    Member: {"name": "Grace Hopper", "email": "grace@example.com", "title": "Rear admiral"},
    Note: {"title": "Tea", "body": "Likes tea.\nNo sugar."},
    Opportunity: {
        "name": "Renewal",
        "stage": "engaging",
        "value": "5000.00",
        "engagedOn": "2026-01-02",
        "expectedCloseOn": "2026-03-04",
        "closedOn": "2026-05-06",
    },
    Sms: {
        "leadId": "00000000-0000-0000-0000-000000000005",
        "phone": "+442079460000",
        "message": "Hello Ada, see you soon — Grace",
        "templateId": "follow_up",
        "status": "pending",
    },
    Task: {
        "title": "Call back",
        "status": "todo",
        "dueDate": "2026-02-02",
        "description": "About the offer",
    },
    Workspace: {"name": "Acme Sales"},
    **{each.kind: each.full for each in DESCRIBED_KINDS},
}
REVISED: dict[type[Entity], dict[str, Any]] = {
    Account: {"company": "Acme", "nextAction": None, "dealValue": "99.00"},
    ApiKey: {"role": "member"},
    Appointment: {"location": None, "notes": "Bring nothing.", "allowOverlap": True},
    Contact: {"email": None, "title": "CEO"},
    Lead: {"company": "Engines", "value": None, "smsOptOut": True},
    Meeting: {"location": None, "agenda": "Offer"},
    Member: {"title": None},
    Note: {"title": None, "body": "Likes coffee."},
    Opportunity: {"value": "4500.00", "closedOn": None},
    Sms: {"gatewayId": "SM1", "error": "late", "errorCode": "30003"},
    Task: {"dueDate": "2026-02-03", "description": None},
    Workspace: {"name": "Acme"},
    **{each.kind: each.revised for each in DESCRIBED_KINDS},
}
NEW_STATUS = {
    Account: "on_hold",
    Lead: "contacted",
    Meeting: "held",
    Opportunity: "lost",
    Sms: "sent",
    Task: "done",
}
STEPS: dict[type[Entity], list[Callable[[Any, datetime], None]]] = {
    Appointment: [
        lambda one, at: one.confirm("Ada", at=at, notes="Gladly.", notify=True),
        lambda one, at: one.miss(at=at),
        lambda one, at: one.revert({"status": "confirmed"}, at=at),
        lambda one, at: one.cancel(at=at, reason="Ill"),
        lambda one, at: one.reschedule({"startsAt": "2026-02-02T10:00:00Z"}, at=at),
        lambda one, at: one.complete(at=at),
    ],
    Lead: [
        lambda lead, at: lead.convert(
            account_id=ACCOUNT, contact_id=UUID(int=4), opportunity_id=UUID(int=5), at=at
        )
    ],
    **{each.kind: each.steps for each in DESCRIBED_KINDS},
}
"""Further steps of a kind, in this order; each topic once."""


def samples() -> list[Sample]:
    """Return all recorded samples; those of one entity in the order of their versions."""
    recorded = [orjson.loads(path.read_bytes()) for path in SAMPLES.glob("*.json")]
    return sorted(recorded, key=lambda sample: (sample["id"], sample["version"]))


def history_of(sample: Sample) -> list[Sample]:
    """Return the sample after those of its entity's earlier versions, each version once."""
    before = {
        each["version"]: each
        for each in samples()
        if each["id"] == sample["id"] and each["version"] < sample["version"]
    }
    return [*(before[version] for version in sorted(before)), sample]


def stored_event(sample: Sample) -> LogEvent:
    """Convert a sample to the event as the recorder stores it."""
    return LogEvent(
        originator_id=UUID(sample["id"]),
        originator_version=sample["version"],
        topic=sample["topic"],
        state=orjson.dumps(sample["data"]),
        occurred_at=datetime.fromisoformat(sample["occurredAt"]),
        account_id=UUID(sample["accountId"]) if sample["accountId"] else None,
        workspace_id=WORKSPACE,
    )


def entity_with_all_events(kind: type[Entity], entity_id: UUID) -> Entity:
    """Return an entity of the kind that has recorded each of its events once."""
    account_id = ACCOUNT if kind.BELONGS_TO_ACCOUNT else None
    fields = {**FULL[kind], **COMMON}
    entity = kind.create(entity_id, WORKSPACE, fields, at=START, account_id=account_id)
    minutes = (START + timedelta(minutes=number) for number in range(1, 20))
    custom = {"sector": "drinks", "seats": 6, "size": "L"}
    entity.revise({**entity.values, **REVISED[kind], "customFields": custom}, at=next(minutes))
    if kind in NEW_STATUS:
        entity.change_status(NEW_STATUS[kind], at=next(minutes))
    for step in STEPS.get(kind, ()):
        step(entity, next(minutes))
    entity.delete(at=next(minutes), deleted_with=account_id)
    try:
        entity.restore(at=next(minutes))
    except KeyRevoked:
        assert kind is ApiKey
        return entity
    if kind.BELONGS_TO_ACCOUNT:
        entity.begin_move(OTHER, at=next(minutes))
        entity.complete_move(OTHER, at=next(minutes))
    if isinstance(entity, MergeableEntity):
        other = type(entity).create(
            OTHER, WORKSPACE, entity.values, at=START, account_id=account_id
        )
        moved = {"contact": 2} if kind is Account else {}
        entity.merge(other, {**entity.values, "assignedTo": None}, at=next(minutes), moved=moved)
        entity.delete(at=next(minutes), merged_into=OTHER)
    return entity


def jobs_with_all_events(ids: Iterable[UUID]) -> Iterator[Job]:
    """Yield jobs that have recorded each event of a job, one job for each way to end."""
    at = [START + timedelta(minutes=number) for number in range(4)]
    parameters = {"kind": "account", "change": {"set": {"priority": "high"}}}
    error = ItemError(2, "It is deleted.", "E5003", {"id": str(ACCOUNT)})
    for job_id, end in zip(ids, ("complete", "fail", "cancel"), strict=False):
        job = Job.request(job_id, WORKSPACE, "bulk", parameters, total=2, at=at[0])
        job.start(at=at[1])
        step = JobStep(2, 1, 1, [error], done=end == "complete", counts={"changed": 1})
        job.progress(step, at=at[2])
        if end == "fail":
            job.fail({"code": "E4500", "error": "Something went wrong."}, at=at[3])
        elif end == "cancel":
            job.cancel(at=at[3])
        yield job


def all_recorded() -> Iterator[RecordedAggregate]:
    """Yield an entity of each kind, and jobs, with all their events."""
    for kind in KINDS.values():
        yield entity_with_all_events(kind, uuid5(WORKSPACE, kind.KIND))
    yield from jobs_with_all_events(repeat(UUID(int=90)))


def missing() -> Iterator[tuple[Path, Sample]]:
    """Yield path and sample for each topic that has none yet."""
    mapper = EventMapper(OrjsonTranscoder())
    for aggregate in all_recorded():
        for event in aggregate.pending_events:
            stored = mapper.to_stored_event(event)
            data = orjson.loads(stored.state)
            path = SAMPLES / f"{stored.topic}{_name_suffix(data)}.json"
            if not path.exists():
                yield (
                    path,
                    {
                        "topic": stored.topic,
                        "id": str(stored.originator_id),
                        "version": stored.originator_version,
                        "occurredAt": stored.occurred_at.isoformat(),
                        "accountId": str(stored.account_id) if stored.account_id else None,
                        "data": data,
                        "expected": {"topic": stored.topic, "data": data},
                    },
                )


def _name_suffix(data: dict[str, Any]) -> str:
    """Return the suffix that distinguishes a further sample of a topic from its first."""
    special = {"movedTo": ".moved", "movedFrom": ".moved", "mergedInto": ".merged"}
    return next((end for name, end in special.items() if name in data), "")


def write_missing() -> None:
    """Write the samples that are missing."""
    SAMPLES.mkdir(exist_ok=True)
    for path, sample in missing():
        path.write_bytes(orjson.dumps(sample, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    write_missing()
