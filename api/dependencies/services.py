"""The services that all routes of one process share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter
from psycopg_pool import ConnectionPool

from api.exports.streaming import ExportLimiter, ExportLimits
from api.http.auth import Authenticator
from api.http.limits.keys import FailureQuota, KeyQuotas
from api.http.limits.rates import RateCounter
from api.jobs.feed import JobFeed
from api.realtime.hub import Hub
from api.realtime.read_tables import ReadTableProgress
from commands.bulk import BulkCommands
from commands.committing.committer import Committer
from commands.entities import EntityCommands
from commands.importing.commands import ImportCommands
from commands.jobs.requests import JobCommands
from commands.leads import LeadCommands
from commands.merging import MergeCommands
from commands.sms import SmsCommands
from commands.undo.commands import UndoCommands
from eventlog.connections import Connection, write_pool
from eventlog.store.log import EventLog
from eventlog.store.shared import SharedTransactions
from readmodels.operation.checkpoints import Checkpoints
from readmodels.pool import ReadPool
from runtime.composition import Writing, app_url, new_id, open_writing, sms_limits
from runtime.health import HealthMonitor
from runtime.metrics import Metrics
from runtime.settings import Settings

AS_OF_CONNECTIONS = 2
"""Maximum number of as-of lists computed at once; each is folded from history."""


@dataclass(frozen=True)
class Services:
    """Commands, connection pools and background services; one instance per process."""

    settings: Settings
    log: EventLog
    commands: EntityCommands
    committer: Committer
    """Executes decisions of requests in shared transactions."""
    leads: LeadCommands
    merging: MergeCommands
    undo: UndoCommands
    sms: SmsCommands
    writes: ConnectionPool[Connection]
    """For writes to tables other than the log."""
    reads: ReadPool
    checkpoints: Checkpoints
    authenticator: Authenticator
    history: ConnectionPool[Connection]
    """For as-of lists, so that they take no connections from commands."""
    history_limit: CapacityLimiter
    health: HealthMonitor
    exports: ExportLimiter
    jobs: JobCommands
    imports: ImportCommands
    bulk: BulkCommands
    job_feed: JobFeed
    hub: Hub
    """Serves the subscribers of changes."""


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Open the services of this process, and close them in reverse order."""
    url = app_url(settings)
    reads = ReadPool(url, max_size=settings.read_connections_max)
    exports = export_limiter(settings)
    checkpoints, health = Checkpoints(url), HealthMonitor(url, settings)
    after_append: list[Callable[[], None]] = []
    with (
        open_writing(settings, metrics, after_append) as writing,
        write_pool(url, max_size=AS_OF_CONNECTIONS) as history,
    ):
        metrics.pools |= {"read": reads.statistics, "history": history.get_stats}
        metrics.pools["export"] = exports.pool.statistics
        await reads.open()
        await exports.pool.open()
        authenticator = _authenticator(settings, reads, writing)
        hub = Hub(url, reads, ReadTableProgress(checkpoints), authenticator, settings)
        metrics.hub = hub.statistics
        after_append.append(hub.hint)
        await hub.start()
        await checkpoints.start()
        job_feed = JobFeed(reads, checkpoints, settings)
        jobs = _job_commands(settings, writing)
        try:
            async with _committer(settings, url, writing.log, metrics) as committer:
                yield Services(
                    settings=settings,
                    log=writing.log,
                    commands=writing.commands,
                    committer=committer,
                    leads=LeadCommands(writing.log, clock=writing.now, new_id=new_id),
                    merging=MergeCommands(writing.log, clock=writing.now),
                    undo=UndoCommands(writing.log, clock=writing.now),
                    sms=SmsCommands(
                        writing.log,
                        writing.commands,
                        clock=writing.now,
                        limits=sms_limits(settings),
                    ),
                    writes=writing.pool,
                    reads=reads,
                    checkpoints=checkpoints,
                    authenticator=authenticator,
                    history=history,
                    history_limit=CapacityLimiter(AS_OF_CONNECTIONS),
                    health=health,
                    exports=exports,
                    jobs=jobs,
                    imports=ImportCommands(writing.log, jobs, clock=writing.now, new_id=new_id),
                    bulk=BulkCommands(writing.log, clock=writing.now),
                    job_feed=job_feed,
                    hub=hub,
                )
        finally:
            await hub.stop()
            await job_feed.close()
            await health.close()
            await checkpoints.stop()
            await exports.pool.close()
            await reads.close()


def export_limiter(settings: Settings) -> ExportLimiter:
    """Return the limiter for exports. The caller opens and closes its pool."""
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
    return ExportLimiter(pool, limits)


@asynccontextmanager
async def _committer(
    settings: Settings, url: str, log: EventLog, metrics: Metrics
) -> AsyncIterator[Committer]:
    transactions = SharedTransactions(log, url)
    metrics.pools["shared-write"] = transactions.statistics
    await transactions.open()
    committer = Committer(log, transactions, window_s=settings.idempotency_window_s)
    try:
        yield committer
    finally:
        await committer.close()
        await transactions.close()


def _sms_commands(settings: Settings, writing: Writing) -> SmsCommands:
    limits = sms_limits(settings)
    return SmsCommands(writing.log, writing.commands, clock=writing.now, limits=limits)


def _job_commands(settings: Settings, writing: Writing) -> JobCommands:
    open_max = settings.jobs_per_workspace_max
    return JobCommands(writing.log, clock=writing.now, new_id=new_id, open_max=open_max)


def _authenticator(settings: Settings, reads: ReadPool, writing: Writing) -> Authenticator:
    counter = RateCounter()
    quotas, failures = KeyQuotas(settings, counter), FailureQuota(settings, counter)
    return Authenticator(reads, writing.log, writing.now, quotas, failures)
