"""The alarm of the coverage ledger: it is compared with the log all the time, a bit at a time.

What came in since the last check is compared at each check; all of history in rounds that begin
anew every hour. Differences stand in `projection_faults` as long as they are there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from eventlog.connections import Connection
from projections.engine.ledger.coverage import BUCKET_POSITIONS, Gap, compare

CHUNK_POSITIONS = 50_000
"""Most positions that one check compares, of the newest and of the round each (0.4 s of the
server's time)."""
ROUND_INTERVAL_S = 3_600.0
"""So long after the end of a round over all of history the next one begins."""

# A projection whose partitions are not equally far has more in its last range than its checkpoint
# says.
SELECT_STANDING = """
SELECT p.name, p.position, p.epoch,
       EXISTS (SELECT FROM projection_offsets AS o WHERE o.projection = p.name),
       c.epoch, c.newest, c.swept, c.swept_at,
       coalesce(c.swept_at < clock_timestamp() - make_interval(secs => %s), false)
  FROM projections AS p LEFT JOIN projection_checks AS c ON c.projection = p.name
 WHERE p.name NOT LIKE '%%:%%' ORDER BY p.name
"""
NOTE_CHECK = """
INSERT INTO projection_checks (projection, epoch, newest, swept, swept_at)
VALUES (%s, %s, %s, %s, CASE WHEN %s THEN clock_timestamp() ELSE %s END)
    ON CONFLICT (projection) DO UPDATE
   SET epoch = excluded.epoch, newest = excluded.newest, swept = excluded.swept,
       swept_at = excluded.swept_at, checked_at = clock_timestamp()
"""
SELECT_FAULTS = """
SELECT projection, first, last, fault, position FROM projection_faults
 WHERE projection = ANY(%s) AND first BETWEEN %s AND %s
"""
ADD_FAULT = """
INSERT INTO projection_faults (projection, first, last, fault, position)
VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (projection, first) DO UPDATE
   SET fault = excluded.fault, position = excluded.position
"""
DROP_FAULT = "DELETE FROM projection_faults WHERE projection = %s AND first = %s"
FORGET_FAULTS = "DELETE FROM projection_faults WHERE projection = %s"


@dataclass(frozen=True)
class CheckResult:
    """What one check found out."""

    new: list[Gap]
    """Differences that were not known."""
    gone: list[Gap]
    """Differences that are there no more."""


@dataclass(frozen=True)
class _Standing:
    """How far one projection is, and how far it was checked."""

    name: str
    upto: int
    """What can be compared: its checkpoint, or the end of a range before it."""
    epoch: int
    newest: int
    swept: int
    swept_at: datetime | None
    is_due: bool
    """Whether a round over all of history is to be begun or gone on with."""
    is_other: bool
    """Whether its tables are others than those that were checked: rebuilt, or mended."""


Range = tuple[int, int]


def check(
    connection: Connection,
    *,
    chunk: int = CHUNK_POSITIONS,
    round_interval_s: float = ROUND_INTERVAL_S,
) -> CheckResult:
    """Compare the next bit of every ledger. One process at a time may do this."""
    with connection.transaction():
        # One snapshot: the checkpoints, the ledgers and the log are of the same moment.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        standings = _standings(connection, round_interval_s)
        for each in standings:
            if each.is_other:
                connection.execute(FORGET_FAULTS, (each.name,))
        work: dict[Range, list[str]] = {}
        for each in standings:
            for piece in {_newest(each, chunk), _swept(each, chunk)} - {None}:
                assert piece is not None
                work.setdefault(piece, []).append(each.name)
        found = [_compare(connection, names, piece) for piece, names in work.items()]
        for each in standings:
            _note(connection, each, chunk)
    return CheckResult(
        [gap for one in found for gap in one.new], [gap for one in found for gap in one.gone]
    )


def _standings(connection: Connection, round_interval_s: float) -> list[_Standing]:
    standings = []
    rows = connection.execute(SELECT_STANDING, (round_interval_s,)).fetchall()
    for name, position, epoch, is_uneven, known_epoch, newest, swept, swept_at, is_late in rows:
        upto = position // BUCKET_POSITIONS * BUCKET_POSITIONS - 1 if is_uneven else position
        if known_epoch != epoch:
            is_other = known_epoch is not None
            standings.append(_Standing(name, upto, epoch, upto, 0, None, True, is_other))
        else:
            start = 0 if is_late else swept
            is_due = is_late or swept_at is None
            standings.append(
                _Standing(name, upto, epoch, newest, start, swept_at, is_due, is_other=False)
            )
    return standings


def _newest(standing: _Standing, chunk: int) -> Range | None:
    """From the range that was compared last, which may have been half full."""
    return _piece(standing.newest, standing.upto, chunk)


def _swept(standing: _Standing, chunk: int) -> Range | None:
    return _piece(standing.swept, standing.upto, chunk) if standing.is_due else None


def _piece(after: int, upto: int, chunk: int) -> Range | None:
    first = (after + 1) // BUCKET_POSITIONS * BUCKET_POSITIONS
    return (first, min(first + chunk - 1, upto)) if upto >= first else None


def _compare(connection: Connection, names: list[str], piece: Range) -> CheckResult:
    first, upto = piece
    known = [Gap(*row) for row in connection.execute(SELECT_FAULTS, (names, first, upto))]
    there = compare(connection, names, first=first, upto=upto)
    places = {(gap.projection, gap.first) for gap in there}
    gone = [gap for gap in known if (gap.projection, gap.first) not in places]
    new = [gap for gap in there if gap not in known]
    for gap in gone:
        connection.execute(DROP_FAULT, (gap.projection, gap.first))
    for gap in new:
        row = (gap.projection, gap.first, gap.last, gap.fault, gap.position)
        connection.execute(ADD_FAULT, row)
    return CheckResult(new, gone)


def _note(connection: Connection, standing: _Standing, chunk: int) -> None:
    newest, swept = _newest(standing, chunk), _swept(standing, chunk)
    ended = swept is not None and swept[1] >= standing.upto
    noted = replace(
        standing,
        newest=newest[1] if newest else standing.newest,
        swept=swept[1] if swept else standing.swept,
        swept_at=None if standing.is_due else standing.swept_at,
    )
    connection.execute(
        NOTE_CHECK,
        (noted.name, noted.epoch, noted.newest, noted.swept, ended, noted.swept_at),
    )
