"""How the layers are put together, for the API and for commands of the command line alike."""

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
from eventlog.connections import Connection, write_pool
from eventlog.hints import Hinter
from eventlog.store.log import EventLog
from runtime.metrics import Metrics
from runtime.settings import Settings


def now() -> datetime:
    """The clock of the running system."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A new id; UUIDv7, so that ids made one after the other lie side by side in an index."""
    return uuid7()


@dataclass(frozen=True)
class Writing:
    """What writes: the log and the commands on it."""

    log: EventLog
    commands: EntityCommands
    pool: ConnectionPool[Connection]


@contextmanager
def open_writing(
    settings: Settings,
    metrics: Metrics | None = None,
    told: Sequence[Callable[[], None]] = (),
) -> Iterator[Writing]:
    """The log and its commands, for as long as the block lasts. Needs `app_url`.

    `told` are called after each append, in its thread, besides the hint to other processes.
    """
    url = app_url(settings)
    metrics = metrics or Metrics()
    hinter = Hinter(url)
    metrics.hints_sent = lambda: hinter.sent
    with write_pool(url, max_size=settings.write_threads_max) as pool:
        try:
            metrics.pools["write"] = pool.get_stats

            def after_append() -> None:
                hinter.hint()
                for tell in told:
                    tell()

            log = EventLog(pool, after_append=after_append, observe_append=metrics.append)
            yield Writing(log, EntityCommands(log, clock=now, new_id=new_id), pool)
        finally:
            hinter.close()


def sms_limits(settings: Settings) -> SmsLimits:
    """What may be sent, as the settings have it."""
    zone = settings.sms_timezone
    return SmsLimits(
        settings.sms_lead_daily_max,
        settings.sms_workspace_daily_max,
        settings.sms_region,
        UTC if zone == "UTC" else ZoneInfo(zone),
    )


def app_url(settings: Settings) -> str:
    """The URL of the API's role. Raises `LookupError` where none is set."""
    if settings.app_url is None:
        raise LookupError("ANNALS_APP_URL is not set")
    return settings.app_url
