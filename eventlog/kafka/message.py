"""Messages: how an event is written to Kafka and read back (docs/events/README.md).

The value is a JSON object with data and metadata as they are stored, byte for byte, so that message
and row have the same digest. Between events the relay writes marks. A mark at a position follows
all events of its partition up to that position.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from eventlog.digest import event_digest
from eventlog.reading.recorded import RecordedEvent, iso
from eventlog.upcast import upcast

MARK_TOPIC = "annals.mark"
"""The header `topic` of a mark."""
DATA = b',"data":'
METADATA = b',"metadata":'
KEYS_CACHED_MAX = 100_000
RELAYS_CACHED_MAX = 100

Headers = list[tuple[str, bytes]]
LogRow = tuple[Any, ...]


class MalformedMessage(ValueError):
    """A message was not written by a relay of Annals. The text quotes it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The log that a message comes from, and the relay that wrote it."""

    log_id: str
    generation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Head:
    """The headers of a message."""

    topic: str
    position: int
    origin: Origin

    @property
    def is_mark(self) -> bool:
        """Whether the message is a mark."""
        return self.topic == MARK_TOPIC


def partition_key(row: LogRow) -> str:
    """The account that a row of the log belongs to, or its stream if it belongs to none."""
    return str(row[5] or row[2])


def key_of_event(event: RecordedEvent) -> str:
    """As `partition_key`, for an event."""
    return event.account_id or event.stream_id


@lru_cache(KEYS_CACHED_MAX)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: its CRC-32 modulo `partitions`, as librdkafka's `consistent`."""
    return zlib.crc32(key.encode()) % partitions


def headers(topic: str, position: int, origin: Origin) -> Headers:
    """Make the headers of a message."""
    return [
        ("topic", topic.encode()),
        ("position", b"%d" % position),
        ("logId", origin.log_id.encode()),
        ("relay", b"%d.%d" % (origin.generation, origin.epoch)),
    ]


def encode(row: LogRow) -> bytes:
    """Make the value of a message from a row with the columns `COLUMNS` (reading/recorded.py)."""
    position, workspace, stream, version, topic, account, raw, metadata, occurred, recorded = row
    owner = f'"{account}"' if account else "null"
    head = (
        f'{{"position":{position},"workspaceId":"{workspace}","streamId":"{stream}",'
        f'"streamVersion":{version},"topic":{orjson.dumps(topic).decode()},"accountId":{owner},'
        f'"occurredAt":"{iso(occurred)}","recordedAt":"{iso(recorded)}","dataBytes":{len(raw)}'
    )
    return b"".join((head.encode(), DATA, raw, METADATA, metadata, b"}"))


def encode_mark(position: int) -> bytes:
    """Make the value of a mark."""
    return b'{"through":%d}' % position


def read_head(raw: Headers) -> Head:
    """Parse the headers of a message. Raises `MalformedMessage`."""
    try:
        named = dict(raw)
        origin = _origin(named["logId"], named["relay"])
        return Head(named["topic"].decode(), int(named["position"]), origin)
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"headers {raw!r}: {error!r}") from None


@lru_cache(RELAYS_CACHED_MAX)
def _origin(log_id: bytes, relay: bytes) -> Origin:
    generation, epoch = relay.split(b".")
    return Origin(log_id.decode(), int(generation), int(epoch))


def decode(value: bytes) -> RecordedEvent:
    """Parse a message into an event of the current version. Raises `MalformedMessage`."""
    try:
        fields = orjson.loads(value)
        raw, metadata = _stored_texts(value, fields["dataBytes"])
        topic, data = upcast(fields["topic"], fields["data"])
        return RecordedEvent(
            fields["position"], fields["workspaceId"], fields["streamId"], fields["streamVersion"],
            topic, fields["accountId"], data, metadata, fields["occurredAt"],
            fields["recordedAt"], _digest(fields, raw, metadata),
        )  # fmt: skip
    except MalformedMessage:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"{value[:200]!r}: {error!r}") from None


def digest_of(value: bytes) -> tuple[int, int]:
    """The position of a message and the digest of its stored event. Raises `MalformedMessage`."""
    try:
        fields = orjson.loads(value)
        raw, metadata = _stored_texts(value, fields["dataBytes"])
        return fields["position"], _digest(fields, raw, metadata)
    except MalformedMessage:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"{value[:200]!r}: {error!r}") from None


def _digest(fields: dict[str, Any], raw: bytes, metadata: bytes) -> int:
    return event_digest(
        fields["position"],
        fields["workspaceId"],
        fields["streamId"],
        fields["streamVersion"],
        fields["topic"],
        fields["accountId"],
        fields["occurredAt"],
        fields["recordedAt"],
        raw,
        metadata,
    )


def _stored_texts(value: bytes, data_bytes: int) -> tuple[bytes, bytes]:
    """Cut data and metadata out of the value, as they are stored in the database.

    The first `,"data":` is the right one, because quotes within strings are escaped.
    """
    start = value.index(DATA) + len(DATA)
    end = start + data_bytes
    if value[end : end + len(METADATA)] != METADATA:
        raise MalformedMessage(f"dataBytes is wrong in {value[:200]!r}")
    return value[start:end], value[end + len(METADATA) : -1]
