"""Wait for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from eventlog.connections import Connection

TIMEOUT_S = 120.0
"""Generous, because a loaded machine is no failure; a condition that holds costs no time."""
POLL_INTERVAL_S = 0.02


@dataclass
class StoppedClock:
    """A clock that stands still until a test moves it, for code that is given its clock."""

    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class WaitTimeout(AssertionError):
    """A condition did not come to hold in time; the message names it."""


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    timeout_s: float = TIMEOUT_S,
    poll_interval_s: float = POLL_INTERVAL_S,
) -> float:
    """Return once the condition holds: the seconds that took.

    what: the condition in words, for the failure message.
    Raises `WaitTimeout` after `timeout_s`.
    """
    started_at = time.monotonic()
    while not condition():
        if time.monotonic() - started_at > timeout_s:
            raise WaitTimeout(f"after {timeout_s:g} s still not: {what}")
        time.sleep(poll_interval_s)
    return time.monotonic() - started_at


def are_projected(database: Connection, position: int | None = None) -> bool:
    """Whether all projections have reached a position, or by default the end of the log."""
    row = database.execute(
        """SELECT min(position) >= coalesce(%s, readable_position())
             FROM projections WHERE name !~ ':'""",  # those of kept tables stand still
        (position,),
    ).fetchone()
    return bool(row and row[0])


def wait_until_projected(database: Connection, position: int | None = None) -> float:
    """Wait until `are_projected`; return the seconds that took."""
    what = "everything is projected" if position is None else f"position {position} is projected"
    return wait_until(lambda: are_projected(database, position), what)
