"""JSON schemas of the messages, one for each topic of the log, derived from the domain's models.

python -m eventlog.kafka.schemas [FOLDER]     writes them, by default to docs/events
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
        "description": "The account that the entity belongs to; null for an account itself.",
    },
    "occurredAt": {**TIME_SCHEMA, "description": "When it happened."},
    "recordedAt": {**TIME_SCHEMA, "description": "When the database recorded it."},
    "dataBytes": {"type": "integer", "description": "Length of `data` in the message, in bytes."},
    "metadata": {"type": "object", "description": "Actor, request, command and correlation ids."},
}
MOVED: Schema = {
    "type": "object",
    "additionalProperties": {"type": "integer", "minimum": 1},
    "description": "How many entities of each kind were moved.",
}
MARK: Schema = {
    "$schema": DIALECT,
    "$id": f"{MARK_TOPIC}.json",
    "title": MARK_TOPIC,
    "description": "All events of this partition up to the position precede this message.",
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
    """The schema of the messages of each topic of the log, and of marks, by topic."""
    found = {topic: schema(topic, event) for topic, event in EVENTS.items()}
    return dict(sorted({**found, MARK_TOPIC: MARK}.items()))


def schema(topic: str, event: type[EntityEvent]) -> Schema:
    """The schema of the messages of a topic of the log."""
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
    """The first line of the docstring of the event, or of the shape that it inherits."""
    shape = event
    if not issubclass(event, JobEvent):
        shape = next(base for base in event.__mro__ if base.__module__.startswith("domain.shared."))
    return (shape.__doc__ or "").strip().splitlines()[0]


def _data(topic: str, event: type[EntityEvent]) -> tuple[Schema, Schema]:
    """The schema of the event's data, and the definitions that it refers to."""
    if issubclass(event, JobEvent):
        return _job_data(event), {}
    values, definitions = _values(topic)
    if issubclass(event, EntityMerged):
        changes = {**_changes(values), "minProperties": 0}
        return _object(changes=changes, other=UUID_SCHEMA, moved=MOVED), definitions
    if issubclass(event, EntityUpdated):
        return _object(changes=_changes(values), **_own_attributes(event)), definitions
    if issubclass(event, EntityStatusChanged):
        field = ENTITY_OF[topic].STATUS_FIELD
        assert field is not None
        status = values["properties"][field]
        return _object(before=status, after=status), definitions
    if issubclass(event, EntityDeleted):
        deleted_with = {"anyOf": [UUID_SCHEMA, {"type": "null"}]}
        deleted = _object(fields=values, deletedWith=deleted_with)
        return _with_optional(deleted, mergedInto=UUID_SCHEMA, movedTo=UUID_SCHEMA), definitions
    if issubclass(event, EntityRestored):
        is_dated = issubclass(event, EntityRestoredWithStatusDate)
        dated = {"statusChangedAt": TIME_SCHEMA} if is_dated else {}
        restored = _object(fields=values, createdAt=TIME_SCHEMA, **dated)
        return _with_optional(restored, movedFrom=UUID_SCHEMA), definitions
    assert issubclass(event, EntityCreated), topic
    return _object(fields=values), definitions


def _job_data(event: type[JobEvent]) -> Schema:
    """The schema of the data of a job's event."""
    count: Schema = {"type": "integer", "minimum": 0}
    error: Schema = {"type": "object", "properties": _ERROR, "required": ["error", "row"]}
    if issubclass(event, Job.Created):
        return _object(work={"type": "string"}, parameters=_MAP, total=_or_null(count))
    if issubclass(event, Job.Progressed):
        return _object(
            cursor={"description": "Where the next step begins. Its form depends on `work`."},
            total=_or_null(count),
            **dict.fromkeys(("processed", "succeeded", "failed", "errorsTotal"), count),
            counts={"type": "object", "additionalProperties": {"type": "integer"}},
            errors={"type": "object", "additionalProperties": error},
        )
    return _object(error=_MAP) if issubclass(event, Job.Failed) else _object()


def _own_attributes(event: type[EntityEvent]) -> dict[str, Schema]:
    """The schemas of the attributes that the event's class adds to its shape."""
    own = vars(event).get("__annotations__", {})
    hints = get_type_hints(event)
    return {to_camel(name): TypeAdapter(hints[name]).json_schema() for name in own}


def _values(topic: str) -> tuple[Schema, Schema]:
    """The schema of recorded values, in which fields without a value are left out."""
    model = ENTITY_OF[topic].FIELDS
    fields: Schema = _without_annotations(
        model.model_json_schema(by_alias=True, mode="serialization")
    )
    definitions: Schema = fields.pop("$defs", {})
    # An event with a field that is added later must still be valid by today's schema.
    fields.pop("additionalProperties", None)
    return fields, definitions


def _without_annotations(schema: Any) -> Any:
    """Remove `title`, `default` and `readOnly`.

    Pydantic's titles repeat the names, a field that is missing in an event has no value, and
    `readOnly` concerns only the API.
    """
    if isinstance(schema, list):
        return [_without_annotations(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    names = {"title", "default", "readOnly"}
    return {
        key: _without_annotations(value)
        for key, value in schema.items()
        if key not in names or isinstance(value, dict)
    }


def _changes(values: Schema) -> Schema:
    """The schema of changes, with before and after of each field and each custom field."""
    named = {
        name: _object(before=_or_null(one), after=_or_null(one))
        for name, one in values["properties"].items()
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


def _with_optional(schema: Schema, **properties: Schema) -> Schema:
    return {**schema, "properties": {**schema["properties"], **properties}}


def as_text(schema: Schema) -> str:
    """Format a schema as in its file."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(schema, option=options).decode()


def write(folder: Path = FOLDER) -> None:
    """Write all schemas, and remove the files of topics that no longer exist."""
    wanted = {f"{topic}.json": as_text(made) for topic, made in schemas().items()}
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:2]))
