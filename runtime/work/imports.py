"""Imports as jobs."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from uuid import UUID

from eventsourcing.persistence import OperationalError

from commands.importing.running import Reading
from commands.importing.work import KIND, ImportWork, Prepared, prepare_import
from commands.jobs.work import JobContext
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from readmodels.names import contacts_of, keys, names

__all__ = ["KIND", "READING", "open_work"]

READING = Reading(names=names, keys=keys, contacts_of=contacts_of)
"""What imports ask of the read tables."""

PREPARED_MAX = 4
"""So many jobs a process keeps ready between their turns."""
PROJECTED_WAIT_S = 10.0
"""How long a turn waits for the read tables; then others have theirs, and it is tried again."""
POLL_S = 0.02

LEAST = "SELECT coalesce(min(position), 0) FROM projections WHERE name = ANY(%s)"

_prepared: OrderedDict[UUID, Prepared] = OrderedDict()
_lock = Lock()


def open_work(context: JobContext) -> ImportWork:
    """The work of a job with the parameters `{importId, round, orders, seen}`.

    What takes long to read is kept between turns: names and keys of what was there when the import
    was asked for, which stays the same.
    """
    with _lock:
        prepared = _prepared.get(context.job_id)
    if prepared is None or prepared.engine.log is not context.log:
        prepared = _prepare(context)
    with _lock:
        _prepared[context.job_id] = prepared
        _prepared.move_to_end(context.job_id)
        while len(_prepared) > PREPARED_MAX:
            _prepared.popitem(last=False)
    return ImportWork(context, prepared)


def _prepare(context: JobContext) -> Prepared:
    plurals = (Account.PLURAL, Contact.PLURAL, Member.PLURAL, context.parameters["plural"])
    wait_until_projected(context.log, context.scope, plurals, context.parameters["seen"])
    return prepare_import(context, READING)


def wait_until_projected(
    log: EventLog, scope: Scope, projections: Iterable[str], position: int
) -> None:
    """Return when these projections have reached the position. Raises `OperationalError`."""
    wanted = list(projections)
    deadline = time.monotonic() + PROJECTED_WAIT_S
    while True:
        with log.transaction(scope) as connection:
            row = connection.execute(LEAST, (wanted,)).fetchone()
        if row is not None and row[0] >= position:
            return
        if time.monotonic() > deadline:
            raise OperationalError(f"the read tables have not reached position {position}")
        time.sleep(POLL_S)
