"""The coverage ledger: what each projection consumed, by range, to be compared with the log.

For every range of positions a projection keeps the number of events it consumed, the sum of their
digests, and the sum of digests weighted by their place in the range. Against the same three of the
log, a difference of one event (skipped, doubled, altered, removed) can be solved for its position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from eventlog.connections import Connection, array
from eventlog.reading import RecordedEvent
from eventlog.reading.digests import digests_between, range_sums

BUCKET_POSITIONS = 1_000

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
"""Takes what `entries` gives, for the names that stand somewhere."""
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

SELECT_LIVE = "SELECT name, position FROM projections WHERE name NOT LIKE '%:%' ORDER BY name"

CoverageFault = Literal["skipped", "doubled", "removed", "altered", "several"]


@dataclass(frozen=True)
class Gap:
    """A range in which a projection consumed something else than the log holds."""

    projection: str
    first: int
    last: int
    fault: CoverageFault
    position: int | None
    """Of the one event at fault; None where there are several."""

    def __str__(self) -> str:
        where = f"position {self.position}" if self.position else f"{self.first}..{self.last}"
        return f"{self.projection}: {self.fault} at {where}"


@dataclass(slots=True)
class CoverageTally:
    """What some events add to the ledger."""

    n: int = 0
    digest: int = 0
    weighted: int = 0


def tally(events: Iterable[RecordedEvent]) -> dict[int, CoverageTally]:
    """By bucket, what these events add."""
    buckets: dict[int, CoverageTally] = {}
    for event in events:
        bucket, offset = divmod(event.position, BUCKET_POSITIONS)
        entry = buckets.get(bucket)
        if entry is None:
            entry = buckets[bucket] = CoverageTally()
        entry.n += 1
        entry.digest += event.digest
        entry.weighted += event.digest * (offset + 1)
    return buckets


def record(
    connection: Connection, projections: list[str], buckets: dict[int, CoverageTally]
) -> None:
    """Add to the ledger of each projection, in the transaction that moves their checkpoints."""
    if buckets:
        connection.execute(ADD, (array(projections), *entries(buckets)), prepare=True)


def entries(buckets: dict[int, CoverageTally]) -> tuple[str, str, str, str]:
    """The parameters by which the ledger is told of these."""
    tallies = buckets.values()
    return (
        array(buckets),
        array(each.n for each in tallies),
        array(each.digest for each in tallies),
        array(each.weighted for each in tallies),
    )


def gaps(connection: Connection, projection: str, *, upto: int) -> list[Gap]:
    """Where the projection's ledger differs from the log, up to a position.

    `upto` must be the projection's checkpoint, or before it and the last position of a range.
    """
    return compare(connection, [projection], first=0, upto=upto)


def compare(connection: Connection, projections: list[str], *, first: int, upto: int) -> list[Gap]:
    """Where ledgers differ from the log between two positions; reads the log once for all.

    `first` must be the first position of a range (a multiple of BUCKET_POSITIONS), `upto` as in
    `gaps`.
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
    """Solve one difference for its position: weighted = digest times place, for a single fault."""
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


def verify_all(connection: Connection) -> list[Gap]:
    """Where the ledger of any live projection differs from the log, up to its checkpoint."""
    with connection.transaction():
        # One snapshot: the checkpoint, the ledger and the log are of the same moment.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        standing = connection.execute(SELECT_LIVE).fetchall()
        return [gap for name, position in standing for gap in gaps(connection, name, upto=position)]
