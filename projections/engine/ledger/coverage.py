"""The coverage ledger: the events that each projection consumed, for comparison with the log.

For each range of positions (a bucket) a projection records the number of events it consumed, the
sum of their digests, and the sum of digests weighted by their place in the range. Compared with the
same three numbers of the log, a difference of one event (skipped, doubled, altered, removed) can be
solved for its position.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eventlog.connections import Connection, array
from eventlog.reading import RecordedEvent
from eventlog.reading.digests import digests_between, range_sums

BUCKET_POSITIONS = 1_000
SLICE_POSITIONS = 100 * BUCKET_POSITIONS
"""Positions that one statement of `verify_all` compares."""

OnVerifyProgress = Callable[[int, int], None]
"""Called with the number of compared positions, and of all."""

ADD_FOR = """
INSERT INTO projection_coverage AS c (projection, bucket, n, digest, weighted)
SELECT p.name, b.bucket, b.n, b.digest, b.weighted
  FROM {names} AS p(name),
       unnest(%s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[])
           AS b(bucket, n, digest, weighted)
 ORDER BY p.name, b.bucket
    ON CONFLICT (projection, bucket) DO UPDATE
   SET n = c.n + excluded.n, digest = c.digest + excluded.digest,
       weighted = c.weighted + excluded.weighted
"""
"""Adds what `to_arrays` returns to the ledgers whose names the SQL `names` gives."""
ADD = ADD_FOR.format(names="unnest(%s::text[])")

COMPARE = f"""
WITH log(bucket, n, digest, weighted) AS (
    {range_sums(BUCKET_POSITIONS, "position >= %(first)s AND position <= %(upto)s")}
), expected AS (
    SELECT p.projection, log.* FROM unnest(%(projections)s::text[]) AS p(projection), log
), ledger AS (
    SELECT projection, bucket, n, digest, weighted FROM projection_coverage
     WHERE projection = ANY(%(projections)s)
       AND bucket BETWEEN %(first)s / {BUCKET_POSITIONS} AND %(upto)s / {BUCKET_POSITIONS}
)
SELECT projection, bucket, coalesce(ledger.n, 0) - coalesce(log.n, 0),
       coalesce(ledger.digest, 0) - coalesce(log.digest, 0),
       coalesce(ledger.weighted, 0) - coalesce(log.weighted, 0)
  FROM ledger FULL JOIN expected AS log USING (projection, bucket)
 WHERE ledger.n IS DISTINCT FROM log.n OR ledger.digest IS DISTINCT FROM log.digest
    OR ledger.weighted IS DISTINCT FROM log.weighted
 ORDER BY projection, bucket
"""

# Some ranges of those before the one in which each projection's checkpoint is; the log is read once
# for all.
COMPARE_WHOLE = f"""
WITH log AS MATERIALIZED (
    {range_sums(BUCKET_POSITIONS, "position >= %(first)s AND position <= %(last)s")}
), checked AS (
    SELECT * FROM unnest(%(projections)s::text[], %(buckets)s::bigint[]) AS c(projection, upto)
), expected(projection, bucket, n, digest, weighted) AS (
    SELECT c.projection, log.* FROM checked AS c JOIN log ON log.number < c.upto
), ledger AS (
    SELECT l.projection, l.bucket, l.n, l.digest, l.weighted
      FROM projection_coverage AS l JOIN checked AS c
        ON c.projection = l.projection AND l.bucket < c.upto
     WHERE l.bucket BETWEEN %(first)s / {BUCKET_POSITIONS} AND %(last)s / {BUCKET_POSITIONS}
)
SELECT projection, bucket, coalesce(ledger.n, 0) - coalesce(log.n, 0),
       coalesce(ledger.digest, 0) - coalesce(log.digest, 0),
       coalesce(ledger.weighted, 0) - coalesce(log.weighted, 0)
  FROM ledger FULL JOIN expected AS log USING (projection, bucket)
 WHERE (ledger.n, ledger.digest, ledger.weighted)
       IS DISTINCT FROM (log.n, log.digest, log.weighted)
 ORDER BY projection, bucket
"""

# Partitions of Kafka may be further than the checkpoint: then its range is not complete.
SELECT_LIVE = """
SELECT name, position, EXISTS (SELECT FROM projection_offsets AS o WHERE o.projection = p.name),
       version
  FROM projections AS p WHERE name NOT LIKE '%:%' ORDER BY name
"""

CoverageFault = Literal["skipped", "doubled", "removed", "altered", "several", "missing"]


@dataclass(frozen=True)
class Gap:
    """A range in which the events that a projection consumed differ from the log."""

    projection: str
    first: int
    last: int
    fault: CoverageFault
    position: int | None
    """The position of the event at fault; None if there are several."""

    def __str__(self) -> str:
        if self.fault == "missing":
            return f"{self.projection}: it has no checkpoint"
        where = f"position {self.position}" if self.position else f"{self.first}..{self.last}"
        return f"{self.projection}: {self.fault} at {where}"


@dataclass(slots=True)
class CoverageTally:
    """What events add to one bucket of a ledger."""

    n: int = 0
    digest: int = 0
    weighted: int = 0


def add_up(buckets: dict[int, CoverageTally], events: Iterable[tuple[int, int]]) -> None:
    """Add events, given as position and digest, to their buckets."""
    for position, digest in events:
        bucket, offset = divmod(position, BUCKET_POSITIONS)
        entry = buckets.get(bucket)
        if entry is None:
            entry = buckets[bucket] = CoverageTally()
        entry.n += 1
        entry.digest += digest
        entry.weighted += digest * (offset + 1)


def tally_events(events: Iterable[RecordedEvent]) -> dict[int, CoverageTally]:
    """Add up events by bucket."""
    buckets: dict[int, CoverageTally] = {}
    add_up(buckets, ((event.position, event.digest) for event in events))
    return buckets


def record(
    connection: Connection, projections: list[str], buckets: dict[int, CoverageTally]
) -> None:
    """Add to each projection's ledger, in the transaction that moves its checkpoint."""
    if buckets:
        connection.execute(ADD, (array(projections), *to_arrays(buckets)), prepare=True)


def to_arrays(buckets: dict[int, CoverageTally]) -> tuple[str, str, str, str]:
    """The buckets as the four array parameters of `ADD_FOR`."""
    tallies = buckets.values()
    return (
        array(buckets),
        array(each.n for each in tallies),
        array(each.digest for each in tallies),
        array(each.weighted for each in tallies),
    )


def gaps(connection: Connection, projection: str, *, upto: int) -> list[Gap]:
    """The ranges in which a projection's ledger differs from the log, up to a position.

    upto: the projection's checkpoint, or the last position of a range before it.
    """
    return compare(connection, [projection], first=0, upto=upto)


def compare(connection: Connection, projections: list[str], *, first: int, upto: int) -> list[Gap]:
    """The ranges between two positions in which ledgers differ from the log, which is read once.

    first: the first position of a range, a multiple of BUCKET_POSITIONS. upto: as in `gaps`.
    """
    parameters = {"projections": projections, "first": first, "upto": upto}
    rows = connection.execute(COMPARE, parameters).fetchall()
    return [_explain(connection, row[0], upto, *row[1:]) for row in rows]


def _explain(
    connection: Connection,
    projection: str,
    upto: int,
    bucket: int,
    n: int,
    digest: int,
    weighted: int,
) -> Gap:
    """Solve a difference for its position: for a single fault, weighted = digest × place."""
    first = bucket * BUCKET_POSITIONS
    last = first + BUCKET_POSITIONS - 1
    digest, weighted = int(digest), int(weighted)
    offset, rest = divmod(weighted, digest) if digest else (0, 1)
    if rest or not 1 <= offset <= BUCKET_POSITIONS or abs(n) > 1:
        return Gap(projection, first, last, "several", None)
    position = first + offset - 1
    in_log = digests_between(connection, first, min(last, upto))
    if n == 0:
        return Gap(projection, first, last, "altered", position)
    if n < 0:
        return Gap(projection, first, last, "skipped", position)
    fault: CoverageFault = "doubled" if position in in_log else "removed"
    return Gap(projection, first, last, fault, position)


def no_progress(_compared: int, _total: int) -> None:
    """Report nothing."""


def verify_all(
    connection: Connection,
    names: Collection[str] | None = None,
    *,
    on_progress: OnVerifyProgress = no_progress,
) -> list[Gap]:
    """The ranges in which a live projection's ledger differs from the log, which is read once.

    names: the projections to compare, by default all; one without a checkpoint is "missing".
    on_progress: called with the number of positions that were compared, and of all, after each
    SLICE_POSITIONS.
    """
    with connection.transaction():
        # One snapshot, so that checkpoints, ledgers and log are of the same moment.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        live = connection.execute(SELECT_LIVE).fetchall()
        rows = [row[:3] for row in live if names is None or row[0] in names]
        checkpoints: dict[str, int] = {name: position for name, position, _ in rows}
        absent = [name for name in names or () if name not in checkpoints]
        missing = [Gap(name, 0, 0, "missing", None) for name in absent]
        found = _compare_whole_ranges(connection, checkpoints, on_progress)
        names_at: dict[int, list[str]] = {}
        for name, position, is_unaligned in rows:
            if not is_unaligned:
                names_at.setdefault(position, []).append(name)
        for position, aligned in names_at.items():
            first = position - position % BUCKET_POSITIONS
            found += compare(connection, aligned, first=first, upto=position)
    return sorted(missing + found, key=lambda gap: (gap.projection, gap.first))


def _compare_whole_ranges(
    connection: Connection, checkpoints: Mapping[str, int], on_progress: OnVerifyProgress
) -> list[Gap]:
    """Compare the ranges before that of each checkpoint."""
    upto = max(checkpoints.values(), default=0)
    parameters: dict[str, Any] = {
        "projections": list(checkpoints),
        "buckets": [position // BUCKET_POSITIONS for position in checkpoints.values()],
    }
    found = []
    for first in range(0, upto + 1, SLICE_POSITIONS):
        last = min(first + SLICE_POSITIONS - 1, upto)
        rows = connection.execute(COMPARE_WHOLE, parameters | {"first": first, "last": last})
        found += [_explain(connection, row[0], upto, *row[1:]) for row in rows.fetchall()]
        on_progress(last, upto)
    return found
