"""How the layers are put together, for the API and for commands of the command line alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from anyio import CapacityLimiter
from psycopg_pool import ConnectionPool
from uuid_utils.compat import uuid7

from api.auth import Authenticator
from api.operations.lookout import Lookout
from api.operations.metrics import Metrics
from api.realtime.hub import Hub
from api.realtime.tables import Tables
from api.settings import Settings
from commands.entities import EntityCommands
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
    undo: UndoCommands
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
    hub: Hub
    """For who follows changes."""


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


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Everything, opened in order and closed in the opposite one."""
    url = app_url(settings)
    reads = ReadPool(url, max_size=settings.read_connections_max)
    checkpoints = Checkpoints(url)
    lookout = Lookout(url, stall_after_s=settings.stall_after_s)
    told: list[Callable[[], None]] = []
    with (
        open_writing(settings, metrics, told) as writing,
        write_pool(url, max_size=AS_OF_CONNECTIONS) as history,
    ):
        metrics.pools |= {"read": reads.statistics, "history": history.get_stats}
        await reads.open()
        authenticator = Authenticator(reads, writing.log, now)
        hub = Hub(url, reads, Tables(checkpoints), authenticator, settings)
        metrics.hub = hub.statistics
        told.append(hub.hint)
        await hub.start()
        await checkpoints.start()
        try:
            yield Services(
                settings=settings,
                log=writing.log,
                commands=writing.commands,
                undo=UndoCommands(writing.log, clock=now),
                writes=writing.pool,
                reads=reads,
                checkpoints=checkpoints,
                authenticator=authenticator,
                history=history,
                history_limit=CapacityLimiter(AS_OF_CONNECTIONS),
                lookout=lookout,
                hub=hub,
            )
        finally:
            await hub.stop()
            await lookout.close()
            await checkpoints.stop()
            await reads.close()


def app_url(settings: Settings) -> str:
    """The URL of the API's role. Raises `LookupError` where none is set."""
    if settings.app_url is None:
        raise LookupError("ANNALS_APP_URL is not set")
    return settings.app_url
