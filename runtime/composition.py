"""The wiring of the layers, for the API and for the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg_pool import ConnectionPool
from uuid_utils.compat import uuid7

from commands.entities import EntityCommands
from commands.sms import SmsLimits
from eventlog.clock import DatabaseClock
from eventlog.connections import Connection, write_pool
from eventlog.hints import Hinter
from eventlog.store.log import EventLog
from runtime.metrics import Metrics
from runtime.settings import Settings


def new_id() -> UUID:
    """Return a new UUIDv7. Consecutive ids are adjacent in an index."""
    return uuid7()


@dataclass(frozen=True)
class Writing:
    """The log, the entity commands on it, their connection pool, and the database's clock."""

    log: EventLog
    commands: EntityCommands
    pool: ConnectionPool[Connection]
    now: Callable[[], datetime]


@contextmanager
def open_writing(
    settings: Settings,
    metrics: Metrics | None = None,
    after_append: Sequence[Callable[[], None]] = (),
) -> Iterator[Writing]:
    """Open the log and its commands for the duration of the block.

    Each function in `after_append` is called after each append, in the thread that appended and
    after the hint to other processes. Raises `LookupError` if the API's database URL is not set.
    """
    with _open_writing(settings, app_url(settings), metrics or Metrics(), after_append) as writing:
        yield writing


@contextmanager
def open_key_writing(settings: Settings) -> Iterator[Writing]:
    """As `open_writing`, in the owner's role, which may record events of API keys and no others.

    It issues the first key of a workspace and the keys of operators, and is for the command line
    only. Raises `LookupError` if the owner's database URL is not set.
    """
    if settings.owner_url is None:
        raise LookupError("ANNALS_OWNER_URL is not set")
    with _open_writing(settings, settings.owner_url, Metrics(), ()) as writing:
        yield writing


@contextmanager
def _open_writing(
    settings: Settings,
    url: str,
    metrics: Metrics,
    after_append: Sequence[Callable[[], None]],
) -> Iterator[Writing]:
    hinter = Hinter(url)
    metrics.hints_sent = lambda: hinter.sent
    with write_pool(url, max_size=settings.write_threads_max) as pool:
        clock = DatabaseClock(pool)
        try:
            metrics.pools["write"] = pool.get_stats

            def notify() -> None:
                hinter.hint()
                for callback in after_append:
                    callback()

            log = EventLog(pool, after_append=notify, observe_append=metrics.append)
            commands = EntityCommands(log, clock=clock.now, new_id=new_id)
            yield Writing(log, commands, pool, clock.now)
        finally:
            clock.close()
            hinter.close()


def sms_limits(settings: Settings) -> SmsLimits:
    """Return the limits on text messages that the settings define."""
    zone = settings.sms_timezone
    return SmsLimits(
        settings.sms_lead_daily_max,
        settings.sms_workspace_daily_max,
        settings.sms_region,
        UTC if zone == "UTC" else ZoneInfo(zone),
    )


def app_url(settings: Settings) -> str:
    """Return the database URL of the API's role. Raises `LookupError` if it is not set."""
    if settings.app_url is None:
        raise LookupError("ANNALS_APP_URL is not set")
    return settings.app_url
