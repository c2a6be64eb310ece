"""Projections that a process leaves alone for now, because it cannot apply events to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from eventlog.connections import Connection
from projections.changes import Projection
from projections.engine.install import READ_SCHEMA
from projections.engine.live.follower import CannotApply, Follower, MadeByOtherCode
from projections.engine.live.locks import record_problem, unlock_projection

log = logging.getLogger(__name__)

SET_ASIDE_S = 5.0
"""How long a projection is left alone before it is tried again."""

SELECT_VERSIONS = "SELECT name, version FROM projections WHERE name = ANY(%s)"


@dataclass(frozen=True)
class _Entry:
    until_s: float
    is_made_by_other_code: bool


class SetAside:
    """The projections that one process leaves alone; the others of the process are not affected.

    A damaged one is tried again after `SET_ASIDE_S`, and one whose rows were made by other code as
    soon as its rows are those of this code.
    """

    def __init__(self, versions: Mapping[str, str], *, shared: bool = False) -> None:
        """versions: those of the running code, by projection; without one, any rows are taken.
        shared: whether the process shares the locks of its projections with others."""
        self._versions = versions
        self._shared = shared
        self._entries: dict[str, _Entry] = {}
        self._logged: dict[str, str] = {}

    def names(self, connection: Connection) -> set[str]:
        """The projections to leave alone now."""
        if not self._entries:
            return set()
        rows = connection.execute(SELECT_VERSIONS, (list(self._entries),)).fetchall()
        ours = {name for name, version in rows if version == self._versions.get(name)}
        now_s = time.monotonic()
        return {
            name
            for name, entry in self._entries.items()
            if now_s < entry.until_s and not (entry.is_made_by_other_code and name in ours)
        }

    def open_follower(self, connection: Connection, projection: Projection) -> Follower | None:
        """A follower of a projection that this process has locked; None if it is set aside."""
        version = self._versions.get(projection.name)
        try:
            follower = Follower.open(connection, projection, READ_SCHEMA, version)
        except CannotApply as problem:
            self.add(connection, problem)
            return None
        self._entries.pop(projection.name, None)
        return follower

    def add(self, connection: Connection, problem: CannotApply) -> None:
        """Unlock a projection, leave it alone for a while, and record why."""
        is_made_by_other_code = isinstance(problem, MadeByOtherCode)
        until_s = time.monotonic() + SET_ASIDE_S
        self._entries[problem.name] = _Entry(until_s, is_made_by_other_code)
        text = "" if is_made_by_other_code else problem.problem
        record_problem(connection, problem.name, text, self._versions.get(problem.name))
        unlock_projection(connection, problem.name, shared=self._shared)
        if self._logged.get(problem.name) != problem.problem:
            self._logged[problem.name] = problem.problem
            log.error(
                "no event is applied to projection %s: %s; see ./annals rebuild --help",
                problem.name, problem.problem,
            )  # fmt: skip
