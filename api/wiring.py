"""How the layers are put together, for the API and for commands of the command line alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from anyio import CapacityLimiter
from psycopg_pool import ConnectionPool
from uuid_utils.compat import uuid7

from api.auth import Authenticator
from api.exporting import ExportDesk, ExportLimits
from api.job_feed import JobFeed
from api.operations.lookout import Lookout
from api.operations.metrics import Metrics
from api.settings import Settings
from commands.bulk import BulkCommands
from commands.entities import EntityCommands
from commands.imports import ImportCommands
from commands.jobs.requests import JobCommands
from commands.leads import LeadCommands
from commands.sms import SmsCommands, SmsLimits
from commands.undo import UndoCommands
from eventlog.connections import Connection, write_pool
from eventlog.hints import Hinter
from eventlog.log import EventLog
from readmodels.checkpoints import Checkpoints
from readmodels.pool import ReadPool

AS_OF_CONNECTIONS = 2
"""Lists as of a time are folded from history; no more of them at once than this."""


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


@dataclass(frozen=True)
class Services:
    """Everything that routes work with; one per process."""

    settings: Settings
    log: EventLog
    commands: EntityCommands
    leads: LeadCommands
    undo: UndoCommands
    sms: SmsCommands
    writes: ConnectionPool[Connection]
    """For what the API's role may write beside the log."""
    reads: ReadPool
    checkpoints: Checkpoints
    authenticator: Authenticator
    history: ConnectionPool[Connection]
    """For lists as of a time, apart from what serves commands."""
    history_limit: CapacityLimiter
    lookout: Lookout
    """For health and metrics."""
    exports: ExportDesk
    jobs: JobCommands
    imports: ImportCommands
    bulk: BulkCommands
    job_feed: JobFeed


@contextmanager
def open_writing(settings: Settings, metrics: Metrics | None = None) -> Iterator[Writing]:
    """The log and its commands, for as long as the block lasts. Needs `app_url`."""
    url = app_url(settings)
    metrics = metrics or Metrics()
    hinter = Hinter(url)
    metrics.hints_sent = lambda: hinter.sent
    with write_pool(url, max_size=settings.write_threads_max) as pool:
        try:
            metrics.pools["write"] = pool.get_stats
            log = EventLog(pool, after_append=hinter.hint, observe_append=metrics.append)
            yield Writing(log, EntityCommands(log, clock=now, new_id=new_id), pool)
        finally:
            hinter.close()


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Everything, opened in order and closed in the opposite one."""
    url = app_url(settings)
    reads = ReadPool(url, max_size=settings.read_connections_max)
    exports = export_desk(settings)
    checkpoints = Checkpoints(url)
    lookout = Lookout(url, stall_after_s=settings.stall_after_s)
    with (
        open_writing(settings, metrics) as writing,
        write_pool(url, max_size=AS_OF_CONNECTIONS) as history,
    ):
        metrics.pools |= {
            "read": reads.statistics,
            "history": history.get_stats,
            "export": exports.pool.statistics,
        }
        await reads.open()
        await exports.pool.open()
        await checkpoints.start()
        job_feed = JobFeed(reads, checkpoints)
        jobs = JobCommands(writing.log, clock=now, new_id=new_id)
        try:
            yield Services(
                settings=settings,
                log=writing.log,
                commands=writing.commands,
                leads=LeadCommands(writing.log, writing.commands, clock=now, new_id=new_id),
                undo=UndoCommands(writing.log, clock=now),
                sms=SmsCommands(
                    writing.log, writing.commands, clock=now, limits=sms_limits(settings)
                ),
                writes=writing.pool,
                reads=reads,
                checkpoints=checkpoints,
                authenticator=Authenticator(reads, writing.log, now),
                history=history,
                history_limit=CapacityLimiter(AS_OF_CONNECTIONS),
                lookout=lookout,
                exports=exports,
                jobs=jobs,
                imports=ImportCommands(writing.log, jobs, clock=now, new_id=new_id),
                bulk=BulkCommands(writing.log, clock=now),
                job_feed=job_feed,
            )
        finally:
            await job_feed.close()
            await lookout.close()
            await checkpoints.stop()
            await exports.pool.close()
            await reads.close()


def sms_limits(settings: Settings) -> SmsLimits:
    """What may be sent, as the settings have it."""
    zone = settings.sms_timezone
    return SmsLimits(
        settings.sms_lead_daily_max,
        settings.sms_workspace_daily_max,
        settings.sms_region,
        UTC if zone == "UTC" else ZoneInfo(zone),
    )


def export_desk(settings: Settings) -> ExportDesk:
    """What exports work with; its pool is opened and closed by whoever asks for it."""
    limits = ExportLimits(
        at_once=settings.exports_max,
        per_workspace=settings.exports_per_workspace_max,
        timeout_s=settings.export_timeout_s,
        stall_timeout_s=settings.export_stall_timeout_s,
    )
    pool = ReadPool(
        app_url(settings),
        max_size=settings.exports_max,
        statement_timeout_ms=int(settings.export_timeout_s * 1000),
        name="annals-export",
    )
    return ExportDesk(pool, limits)


def app_url(settings: Settings) -> str:
    """The URL of the API's role. Raises `LookupError` where none is set."""
    if settings.app_url is None:
        raise LookupError("ANNALS_APP_URL is not set")
    return settings.app_url
