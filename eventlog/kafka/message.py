"""The event on the wire: what a message says, and how it is read back (docs/events/README.md).

The value is a JSON object with data and metadata as they are stored, byte for byte, so that the
digest of a message is the digest of the row. Between events the relay puts marks: all events of
this partition up to that position lie before.
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
"""What stands in the header `topic` of a mark."""
DATA = b',"data":'
METADATA = b',"metadata":'
KEYS_CACHED_MAX = 100_000
RELAYS_CACHED_MAX = 100

Headers = list[tuple[str, bytes]]
LogRow = tuple[Any, ...]


class MalformedMessage(ValueError):
    """The message was not written by a relay of Annals. Says where it lies."""


@dataclass(frozen=True, slots=True)
class Origin:
    """From which log a message comes, and from which relay of its topic."""

    log_id: str
    generation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of a message say."""

    topic: str
    position: int
    origin: Origin

    @property
    def is_mark(self) -> bool:
        """Whether it is a mark and no event."""
        return self.topic == MARK_TOPIC


def partition_key(row: LogRow) -> str:
    """The account that a row of the log belongs to; its own stream where it hangs on none."""
    return str(row[5] or row[2])


def key_of_event(event: RecordedEvent) -> str:
    """The same of an event."""
    return event.account_id or event.stream_id


@lru_cache(KEYS_CACHED_MAX)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: CRC-32 modulo their number, as librdkafka's `consistent` has it."""
    return zlib.crc32(key.encode()) % partitions


def headers(topic: str, position: int, origin: Origin) -> Headers:
    """The headers of a message."""
    return [
        ("topic", topic.encode()),
        ("position", b"%d" % position),
        ("logId", origin.log_id.encode()),
        ("relay", b"%d.%d" % (origin.generation, origin.epoch)),
    ]


def encode(row: LogRow) -> bytes:
    """A row of the columns of SELECT_AFTER as the value of a message."""
    position, workspace, stream, version, topic, account, raw, metadata, occurred, recorded = row
    whose = f'"{account}"' if account else "null"
    head = (
        f'{{"position":{position},"workspaceId":"{workspace}","streamId":"{stream}",'
        f'"streamVersion":{version},"topic":{orjson.dumps(topic).decode()},"accountId":{whose},'
        f'"occurredAt":"{iso(occurred)}","recordedAt":"{iso(recorded)}","dataBytes":{len(raw)}'
    )
    return b"".join((head.encode(), DATA, raw, METADATA, metadata, b"}"))


def encode_mark(position: int) -> bytes:
    """The value of a mark."""
    return b'{"through":%d}' % position


def read_head(given: Headers) -> Head:
    """The headers of a message. Raises `MalformedMessage`."""
    try:
        named = dict(given)
        origin = _origin(named["logId"], named["relay"])
        return Head(named["topic"].decode(), int(named["position"]), origin)
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"headers {given!r}: {error!r}") from None


@lru_cache(RELAYS_CACHED_MAX)
def _origin(log_id: bytes, relay: bytes) -> Origin:
    generation, epoch = relay.split(b".")
    return Origin(log_id.decode(), int(generation), int(epoch))


def decode(value: bytes) -> RecordedEvent:
    """The event of a message, in today's version. Raises `MalformedMessage`."""
    try:
        fields = orjson.loads(value)
        raw, metadata = _stored_texts(value, fields["dataBytes"])
        position, stream, version = fields["position"], fields["streamId"], fields["streamVersion"]
        digest = event_digest(position, stream, version, fields["topic"], raw, metadata)
        topic, data = upcast(fields["topic"], fields["data"])
        return RecordedEvent(
            position, fields["workspaceId"], stream, version, topic, fields["accountId"], data,
            metadata, fields["occurredAt"], fields["recordedAt"], digest,
        )  # fmt: skip
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise MalformedMessage(f"{value[:200]!r}: {error!r}") from None


def digest_of(value: bytes) -> tuple[int, int]:
    """Position and digest of a message, without upcasting. Raises `MalformedMessage`."""
    try:
        fields = orjson.loads(value)
        raw, metadata = _stored_texts(value, fields["dataBytes"])
        position: int = fields["position"]
        return position, event_digest(
            position, fields["streamId"], fields["streamVersion"], fields["topic"], raw, metadata
        )
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise MalformedMessage(f"{value[:200]!r}: {error!r}") from None


def _stored_texts(value: bytes, data_bytes: int) -> tuple[bytes, bytes]:
    """Data and metadata as they stand in the database, cut out of the value.

    No string before `data` can hold its mark: quotes in strings are escaped.
    """
    start = value.index(DATA) + len(DATA)
    end = start + data_bytes
    if value[end : end + len(METADATA)] != METADATA:
        raise MalformedMessage(f"dataBytes is wrong in {value[:200]!r}")
    return value[start:end], value[end + len(METADATA) : -1]
