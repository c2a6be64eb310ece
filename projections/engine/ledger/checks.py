"""Continuous checks of the coverage ledger against the log, a part at a time.

Each check compares the positions added since the last one, and the next part of a round over all
of history; a new round starts an hour after the last one ended. Differences are kept in
`projection_faults` for as long as they exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from eventlog.connections import Connection
from projections.engine.ledger.coverage import BUCKET_POSITIONS, Gap, compare

CHUNK_POSITIONS = 50_000
"""Maximum number of new positions, and of positions of the round, that one check compares (0.4 s
of server time each)."""
ROUND_INTERVAL_S = 3_600.0
"""Time from the end of one round over all of history to the start of the next."""

# The last range of a projection with unaligned partitions holds more than its checkpoint shows.
SELECT_STATES = """
SELECT p.name, p.position, p.epoch,
       EXISTS (SELECT FROM projection_offsets AS o WHERE o.projection = p.name),
       c.epoch, c.newest, c.swept, c.swept_at,
       coalesce(c.swept_at < clock_timestamp() - make_interval(secs => %s), false)
  FROM projections AS p LEFT JOIN projection_checks AS c ON c.projection = p.name
 WHERE p.name NOT LIKE '%%:%%' AND p.version = coalesce(%s::jsonb ->> p.name, p.version)
 ORDER BY p.name
"""
SAVE_STATE = """
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
SAVE_FAULT = """
INSERT INTO projection_faults (projection, first, last, fault, position)
VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (projection, first) DO UPDATE
   SET fault = excluded.fault, position = excluded.position
"""
DELETE_FAULT = "DELETE FROM projection_faults WHERE projection = %s AND first = %s"
DELETE_FAULTS = "DELETE FROM projection_faults WHERE projection = %s"


@dataclass(frozen=True)
class CheckResult:
    """The differences that appeared or disappeared since the last check."""

    new: list[Gap]
    gone: list[Gap]


@dataclass(frozen=True)
class _CheckState:
    """The positions up to which one projection can be, and was, checked."""

    name: str
    upto: int
    """The last position that can be compared: its checkpoint, or the end of an earlier range."""
    epoch: int
    newest: int
    swept: int
    swept_at: datetime | None
    is_due: bool
    """Whether a round over all of history starts or continues."""
    is_replaced: bool
    """Whether its tables were rebuilt or repaired since the last check."""


Range = tuple[int, int]


def check(
    connection: Connection,
    *,
    versions: Mapping[str, str] | None = None,
    chunk: int = CHUNK_POSITIONS,
    round_interval_s: float = ROUND_INTERVAL_S,
) -> CheckResult:
    """Compare the next part of every ledger. One process at a time may call this.

    versions: those of the running code; the ledger of other code may have other digests, and is not
    compared.
    """
    with connection.transaction():
        # One snapshot, so that checkpoints, ledgers and log are of the same moment.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        states = _load_states(connection, round_interval_s, versions or {})
        for state in states:
            if state.is_replaced:
                connection.execute(DELETE_FAULTS, (state.name,))
        names_by_range: dict[Range, list[str]] = {}
        for state in states:
            for part in {_newest_range(state, chunk), _round_range(state, chunk)} - {None}:
                assert part is not None
                names_by_range.setdefault(part, []).append(state.name)
        results = [_compare(connection, names, part) for part, names in names_by_range.items()]
        for state in states:
            _save_state(connection, state, chunk)
    return CheckResult(
        [gap for result in results for gap in result.new],
        [gap for result in results for gap in result.gone],
    )


def _load_states(
    connection: Connection, round_interval_s: float, versions: Mapping[str, str]
) -> list[_CheckState]:
    states = []
    parameters = (round_interval_s, orjson.dumps(dict(versions)).decode())
    rows = connection.execute(SELECT_STATES, parameters).fetchall()
    for name, position, epoch, is_unaligned, checked, newest, swept, swept_at, is_late in rows:
        upto = position // BUCKET_POSITIONS * BUCKET_POSITIONS - 1 if is_unaligned else position
        if checked != epoch:
            is_replaced = checked is not None
            states.append(_CheckState(name, upto, epoch, upto, 0, None, True, is_replaced))
        else:
            start = 0 if is_late else swept
            is_due = is_late or swept_at is None
            states.append(_CheckState(name, upto, epoch, newest, start, swept_at, is_due, False))
    return states


def _newest_range(state: _CheckState, chunk: int) -> Range | None:
    """The new positions, and all of the range compared last, which may have been incomplete."""
    return _range_after(state.newest, state.upto, chunk)


def _round_range(state: _CheckState, chunk: int) -> Range | None:
    return _range_after(state.swept, state.upto, chunk) if state.is_due else None


def _range_after(after: int, upto: int, chunk: int) -> Range | None:
    first = (after + 1) // BUCKET_POSITIONS * BUCKET_POSITIONS
    return (first, min(first + chunk - 1, upto)) if upto >= first else None


def _compare(connection: Connection, names: list[str], part: Range) -> CheckResult:
    first, upto = part
    known = [Gap(*row) for row in connection.execute(SELECT_FAULTS, (names, first, upto))]
    found = compare(connection, names, first=first, upto=upto)
    places = {(gap.projection, gap.first) for gap in found}
    gone = [gap for gap in known if (gap.projection, gap.first) not in places]
    new = [gap for gap in found if gap not in known]
    for gap in gone:
        connection.execute(DELETE_FAULT, (gap.projection, gap.first))
    for gap in new:
        row = (gap.projection, gap.first, gap.last, gap.fault, gap.position)
        connection.execute(SAVE_FAULT, row)
    return CheckResult(new, gone)


def _save_state(connection: Connection, state: _CheckState, chunk: int) -> None:
    newest, swept = _newest_range(state, chunk), _round_range(state, chunk)
    has_ended = swept is not None and swept[1] >= state.upto
    saved = replace(
        state,
        newest=newest[1] if newest else state.newest,
        swept=swept[1] if swept else state.swept,
        swept_at=None if state.is_due else state.swept_at,
    )
    connection.execute(
        SAVE_STATE,
        (saved.name, saved.epoch, saved.newest, saved.swept, has_ended, saved.swept_at),
    )
