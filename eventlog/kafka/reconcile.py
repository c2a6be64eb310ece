"""Compare the log with the topic: count and digest of every range, then each event that differs.

The topic is read once for the sums of all ranges. If some differ, it is read again for the digests
of their events. So memory is bounded by the number of ranges and not of events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from eventlog.connections import Connection, follow_connection
from eventlog.digest import DIGEST_SQL
from eventlog.kafka.broker import Broker, close_quietly
from eventlog.kafka.message import MalformedMessage, digest_of, partition_of, read_head
from eventlog.kafka.tail import read_between
from eventlog.kafka.topic import (
    RecordedTopic,
    TopicRefused,
    find_topic,
    load_log_id,
    load_topic,
    require_same_topic,
)

RANGE_POSITIONS = 1_000
NAMED_MAX = 100
"""Maximum number of positions that the report lists for each sort of fault; it counts all."""
RANGES_NAMED_MAX = 1_000
"""Maximum number of differing ranges in which the faults are located and counted."""
REPORT_MESSAGES = 50_000

LOG_RANGES = f"""
SELECT position / {RANGE_POSITIONS}, count(*), sum({DIGEST_SQL})
  FROM events WHERE position > %s AND position <= %s GROUP BY 1
"""
LOG_DIGESTS = f"""
SELECT position, {DIGEST_SQL} FROM events
 WHERE position / {RANGE_POSITIONS} = ANY(%s) AND position > %s AND position <= %s
"""

OnProgress = Callable[[int, int], None]
"""Called with the number of messages read and their total."""


@dataclass
class ReconcileReport:
    """The result: positions, at most `NAMED_MAX` of each sort of fault."""

    after: int
    upto: int
    events: int = 0
    """Events of the log between the two positions."""
    messages: int = 0
    """Messages of the topic, without marks."""
    missing: list[int] = field(default_factory=list)
    altered: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    """Positions of messages without an event in the log."""
    doubled: list[int] = field(default_factory=list)
    """Not a difference: readers recognise doubled messages by their position."""
    misplaced: list[int] = field(default_factory=list)
    """Positions of messages that are not in the partition of their key."""
    foreign: list[str] = field(default_factory=list)
    """Partition and offset of messages that this log's relay did not write."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def is_equal(self) -> bool:
        """Whether topic and log agree."""
        return not any((self.missing, self.altered, self.unknown, self.misplaced, self.foreign))

    def note(self, fault: str, where: int | str) -> None:
        """Count a fault, and list it if the list is not full."""
        self.counts[fault] += 1
        named: list[Any] = getattr(self, fault)
        if len(named) < NAMED_MAX:
            named.append(where)


@dataclass(slots=True)
class _Range:
    """The messages of a range: their number, and the sum of their digests."""

    count: int = 0
    digest: int = 0
    seen: int = 0
    """The positions seen, a bit for each."""


def reconcile(
    url: str, broker: Broker, *, after: int = 0, progress: OnProgress = lambda done, total: None
) -> ReconcileReport:
    """Compare everything published after a position. Raises `TopicRefused`, `KafkaError`."""
    with follow_connection(url, application_name="annals-reconcile") as connection:
        topic = load_topic(connection, broker.topic)
        if topic is None:
            raise TopicRefused(f"Nothing has been published to topic {broker.topic} yet.")
        with broker.admin() as admin:
            require_same_topic(broker.topic, topic, find_topic(admin, broker.topic))
        report = ReconcileReport(after, topic.position)
        reader = broker.reader()
        try:
            in_topic = _TopicEvents(
                reader, broker, topic, load_log_id(connection), report, progress
            )
            ranges = in_topic.ranges()
            differing = _find_differing(connection, ranges, report)
            if differing:
                _locate(connection, in_topic.digests(differing), differing, report)
        finally:
            close_quietly(reader)
    return report


class _TopicEvents:
    """The messages of the topic between the report's positions."""

    def __init__(
        self,
        reader: Any,
        broker: Broker,
        topic: RecordedTopic,
        log_id: str,
        report: ReconcileReport,
        progress: OnProgress,
    ) -> None:
        self._reader = reader
        self._topic = topic
        self._log_id = log_id
        self._report = report
        self._progress = progress
        self._partitions = broker.partitions(range(topic.partitions))
        self._begins = reader.beginning_offsets(self._partitions)
        self._ends = reader.end_offsets(self._partitions)

    def ranges(self) -> dict[int, _Range]:
        """Sum up each range, counting a position once; report doubled and misplaced messages."""
        ranges: dict[int, _Range] = {}
        report = self._report
        for message, position, digest in self._events(report):
            report.messages += 1
            number, bit = divmod(position, RANGE_POSITIONS)
            entry = ranges.setdefault(number, _Range())
            if entry.seen >> bit & 1:
                report.note("doubled", position)
                continue
            entry.seen |= 1 << bit
            entry.count += 1
            entry.digest += digest
            if partition_of(_message_key(message), self._topic.partitions) != message.partition:
                report.note("misplaced", position)
        return ranges

    def digests(self, numbers: set[int]) -> dict[int, int]:
        """The digests of the events in these ranges, by position."""
        found: dict[int, int] = {}
        for _, position, digest in self._events(None):
            if position // RANGE_POSITIONS in numbers:
                found.setdefault(position, digest)
        return found

    def _events(self, report: ReconcileReport | None) -> Iterator[tuple[Any, int, int]]:
        for number, message in enumerate(self._messages()):
            if number % REPORT_MESSAGES == 0:
                self._progress(number, sum(self._ends.values()) - sum(self._begins.values()))
            try:
                head = read_head(message.headers)
                if head.is_mark and head.origin.log_id == self._log_id:
                    continue
                position, digest = digest_of(message.value)
                is_ours = head.origin.log_id == self._log_id and position == head.position
            except MalformedMessage:
                is_ours = False
            if not is_ours:
                if report is not None:
                    report.note("foreign", f"{message.partition}:{message.offset}")
            elif self._report.after < position <= self._report.upto:
                yield message, position, digest

    def _messages(self) -> Iterator[Any]:
        for partition in self._partitions:
            yield from read_between(
                self._reader, partition, self._begins[partition], self._ends[partition]
            )


def _message_key(message: Any) -> str:
    return message.key.decode(errors="replace") if message.key else ""


def _find_differing(
    connection: Connection, ranges: dict[int, _Range], report: ReconcileReport
) -> set[int]:
    """The first `RANGES_NAMED_MAX` ranges that differ from the log; set `report.events`."""
    rows = connection.execute(LOG_RANGES, (report.after, report.upto)).fetchall()
    in_log = {number: (n, int(digest)) for number, n, digest in rows}
    report.events = sum(n for n, _ in in_log.values())
    in_topic = {number: (entry.count, entry.digest) for number, entry in ranges.items()}
    differing = {
        number
        for number in in_log.keys() | in_topic.keys()
        if in_log.get(number) != in_topic.get(number)
    }
    return set(sorted(differing)[:RANGES_NAMED_MAX])


def _locate(
    connection: Connection, in_topic: dict[int, int], numbers: set[int], report: ReconcileReport
) -> None:
    rows = connection.execute(LOG_DIGESTS, (sorted(numbers), report.after, report.upto))
    in_log: dict[int, int] = dict(rows.fetchall())
    for position in sorted(in_log.keys() | in_topic.keys()):
        if position not in in_topic:
            report.note("missing", position)
        elif position not in in_log:
            report.note("unknown", position)
        elif in_log[position] != in_topic[position]:
            report.note("altered", position)
