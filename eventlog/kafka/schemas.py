"""JSON schemas of the messages, one for each topic of the log, made from the domain's own models.

python -m eventlog.kafka.schemas [FOLDER]     writes them (docs/events where none is named)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_type_hints

import orjson
from pydantic import TypeAdapter
from pydantic.alias_generators import to_camel

from domain.job import Job, JobEvent
from domain.shared.entity import (
    EntityCreated,
    EntityDeleted,
    EntityEvent,
    EntityRestored,
    EntityRestoredWithStatusDate,
    EntityStatusChanged,
    EntityUpdated,
)
from domain.shared.fields import CUSTOM
from domain.shared.kinds import ENTITY_OF, EVENTS
from domain.shared.merging import EntityMerged
from eventlog.kafka.message import MARK_TOPIC

Schema = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "events"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

UUID_SCHEMA: Schema = {"type": "string", "format": "uuid"}
TIME_SCHEMA: Schema = {"type": "string", "format": "date-time"}
ENVELOPE: dict[str, Schema] = {
    "position": {
        "type": "integer",
        "minimum": 1,
        "description": "Global order; gaps mean nothing.",
    },
    "workspaceId": UUID_SCHEMA,
    "streamId": {**UUID_SCHEMA, "description": "The entity."},
    "streamVersion": {"type": "integer", "minimum": 1, "description": "1, 2, 3 … in each stream."},
    "accountId": {
        "anyOf": [UUID_SCHEMA, {"type": "null"}],
        "description": "The account that the entity hangs on; null for an account itself.",
    },
    "occurredAt": {**TIME_SCHEMA, "description": "When it happened."},
    "recordedAt": {**TIME_SCHEMA, "description": "When the database wrote it down."},
    "dataBytes": {"type": "integer", "description": "Length of data as it stands in the message."},
    "metadata": {"type": "object", "description": "Actor, request, command and correlation ids."},
}
MOVED: Schema = {
    "type": "object",
    "additionalProperties": {"type": "integer", "minimum": 1},
    "description": "How many of each kind came along.",
}
MARK: Schema = {
    "$schema": DIALECT,
    "$id": f"{MARK_TOPIC}.json",
    "title": MARK_TOPIC,
    "description": "All events of this partition up to the position lie before this message.",
    "type": "object",
    "properties": {"through": {"type": "integer", "minimum": 0}},
    "required": ["through"],
}


_MAP: Schema = {"type": "object"}
_ERROR: dict[str, Schema] = {
    "row": {"type": "integer", "minimum": 1},
    "code": {"type": "string"},
    "error": {"type": "string"},
}


def schemas() -> dict[str, Schema]:
    """The schema of each topic's messages, by topic; the mark's among them."""
    found = {topic: schema(topic, event) for topic, event in EVENTS.items()}
    return dict(sorted({**found, MARK_TOPIC: MARK}.items()))


def schema(topic: str, event: type[EntityEvent]) -> Schema:
    """The schema of one topic's messages."""
    data, definitions = _data(topic, event)
    properties: dict[str, Schema] = {**ENVELOPE, "topic": {"const": topic}, "data": data}
    made: Schema = {
        "$schema": DIALECT,
        "$id": f"{topic}.json",
        "title": topic,
        "description": _description(event),
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
    }
    return {**made, "$defs": definitions} if definitions else made


def _description(event: type[EntityEvent]) -> str:
    """The first line of what the event, or its shape, says of itself."""
    shape = event
    if not issubclass(event, JobEvent):
        shape = next(base for base in event.__mro__ if base.__module__.startswith("domain.shared."))
    return (shape.__doc__ or "").strip().splitlines()[0]


def _data(topic: str, event: type[EntityEvent]) -> tuple[Schema, Schema]:
    """What the event says, and what that refers to."""
    if issubclass(event, JobEvent):
        return _job_data(event), {}
    facts, definitions = _facts(topic)
    if issubclass(event, EntityMerged):
        changes = {**_changes(facts), "minProperties": 0}
        return _object(changes=changes, other=UUID_SCHEMA, moved=MOVED), definitions
    if issubclass(event, EntityUpdated):
        return _object(changes=_changes(facts), **_own_facts(event)), definitions
    if issubclass(event, EntityStatusChanged):
        field = ENTITY_OF[topic].STATUS_FIELD
        assert field is not None
        status = facts["properties"][field]
        return _object(before=status, after=status), definitions
    if issubclass(event, EntityDeleted):
        gone_with = {"anyOf": [UUID_SCHEMA, {"type": "null"}]}
        gone = _object(fields=facts, deletedWith=gone_with)
        return _optional(gone, mergedInto=UUID_SCHEMA, movedTo=UUID_SCHEMA), definitions
    if issubclass(event, EntityRestored):
        is_dated = issubclass(event, EntityRestoredWithStatusDate)
        dated = {"statusChangedAt": TIME_SCHEMA} if is_dated else {}
        there = _object(fields=facts, createdAt=TIME_SCHEMA, **dated)
        return _optional(there, movedFrom=UUID_SCHEMA), definitions
    assert issubclass(event, EntityCreated), topic
    return _object(fields=facts), definitions


def _job_data(event: type[JobEvent]) -> Schema:
    """What an event of a job says."""
    count: Schema = {"type": "integer", "minimum": 0}
    error: Schema = {"type": "object", "properties": _ERROR, "required": ["error", "row"]}
    if issubclass(event, Job.Created):
        return _object(work={"type": "string"}, parameters=_MAP, total=_or_null(count))
    if issubclass(event, Job.Progressed):
        return _object(
            cursor={"description": "Where the next step begins; of the work's own making."},
            total=_or_null(count),
            **dict.fromkeys(("processed", "succeeded", "failed", "errorsTotal"), count),
            counts={"type": "object", "additionalProperties": {"type": "integer"}},
            errors={"type": "object", "additionalProperties": error},
        )
    return _object(error=_MAP) if issubclass(event, Job.Failed) else _object()


def _own_facts(event: type[EntityEvent]) -> dict[str, Schema]:
    """What an event says besides what its shape does, as its own class declares it."""
    own = vars(event).get("__annotations__", {})
    hints = get_type_hints(event)
    return {to_camel(name): TypeAdapter(hints[name]).json_schema() for name in own}


def _facts(topic: str) -> tuple[Schema, Schema]:
    """The fields as they are recorded: those without a value are left out."""
    model = ENTITY_OF[topic].FIELDS
    fields: Schema = _without_titles(model.model_json_schema(by_alias=True, mode="serialization"))
    definitions: Schema = fields.pop("$defs", {})
    # A field that is added later must not break who validates by the schema of today.
    fields.pop("additionalProperties", None)
    return fields, definitions


def _without_titles(schema: Any) -> Any:
    """Without pydantic's titles, which say the name over again, and defaults: absent is absent.

    Events say what happened: that a field is read-only in the API does not concern them.
    """
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    names = {"title", "default", "readOnly"}
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if key not in names or isinstance(value, dict)
    }


def _changes(facts: Schema) -> Schema:
    """Before and after of each field that changed; custom fields one by one."""
    named = {
        name: _object(before=_or_null(one), after=_or_null(one))
        for name, one in facts["properties"].items()
        if name != CUSTOM
    }
    custom = _object(before={}, after={})
    return {
        "type": "object",
        "properties": named,
        "patternProperties": {f"^{CUSTOM}\\.": custom},
        "minProperties": 1,
    }


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": sorted(properties)}


def _optional(schema: Schema, **properties: Schema) -> Schema:
    return {**schema, "properties": {**schema["properties"], **properties}}


def as_text(schema: Schema) -> str:
    """A schema as its file has it."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(schema, option=options).decode()


def write(folder: Path = FOLDER) -> None:
    """Write all schemas; files of topics that there are no more are removed."""
    wanted = {f"{topic}.json": as_text(made) for topic, made in schemas().items()}
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:2]))
