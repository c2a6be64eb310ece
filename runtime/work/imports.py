"""Imports as jobs."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from uuid import UUID

from eventsourcing.persistence import OperationalError

from commands.importing.running import Reading
from commands.importing.work import KIND, ImportWork, Prepared, prepare_import
from commands.jobs.work import JobContext
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from readmodels.names import load_contacts, load_keys, load_names
from readmodels.operation.checkpoints import NotProjected, wait_until_projected

__all__ = ["KIND", "READING", "open_work"]

READING = Reading(names=load_names, keys=load_keys, contacts_of=load_contacts)
"""What imports ask of the read tables."""

PREPARED_MAX = 4
"""So many jobs a process keeps ready between their turns."""
PROJECTED_WAIT_S = 10.0
"""How long a turn waits for the read tables; then others have theirs, and it is tried again."""


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
    try:
        wait_until_projected(
            lambda: context.log.transaction(context.scope),
            context.parameters["seen"],
            PROJECTED_WAIT_S,
            names=plurals,
        )
    except NotProjected as error:
        raise OperationalError(str(error)) from None
    return prepare_import(context, READING)
