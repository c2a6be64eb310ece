"""Imports as jobs."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from uuid import UUID

from eventsourcing.persistence import OperationalError

from commands.importing.deciding import ReadTables
from commands.importing.job import KIND, ImportWork, PreparedImport, prepare_import
from commands.jobs.work import JobContext
from domain.account import Account
from domain.contact import Contact
from domain.member import Member
from readmodels.names import load_contacts, load_keys, load_names
from readmodels.operation.checkpoints import NotProjected, wait_until_projected
from runtime.process import tune_gc

__all__ = ["KIND", "READ_TABLES", "open_work"]

READ_TABLES = ReadTables(names=load_names, keys=load_keys, contacts_of=load_contacts)

PREPARED_MAX = 4
"""Maximum number of jobs that a process keeps prepared between their runs."""
PROJECTED_WAIT_S = 10.0
"""How long a job run waits for the read tables; after that other jobs run first."""

_prepared: OrderedDict[UUID, PreparedImport] = OrderedDict()
_lock = Lock()


def open_work(context: JobContext) -> ImportWork:
    """Return the work of an import job for one run.

    Names and keys take long to read and do not change during a job, so they are cached between its
    runs.
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


def _prepare(context: JobContext) -> PreparedImport:
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
    return prepare_import(context, READ_TABLES, tune_gc)
