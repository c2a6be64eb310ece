"""psycopg's errors as those of the eventsourcing library, so that callers need not know psycopg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import psycopg
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
)
from psycopg_pool import PoolTimeout, TooManyRequests

UNREACHABLE_OR_TIMED_OUT = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    PoolTimeout,
    TooManyRequests,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the library's errors in place of psycopg's."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
        _raise_translated(error)


def _raise_translated(error: Exception) -> NoReturn:
    if isinstance(error, psycopg.IntegrityError):
        # The detail is left out: it may show ids of another workspace.
        raise IntegrityError(error.diag.message_primary or str(error)) from error
    if isinstance(error, UNREACHABLE_OR_TIMED_OUT):
        raise OperationalError(str(error)) from error
    if isinstance(error, psycopg.InterfaceError):
        raise InterfaceError(str(error)) from error
    if isinstance(error, psycopg.DataError):
        raise DataError(str(error)) from error
    raise PersistenceError(str(error)) from error
