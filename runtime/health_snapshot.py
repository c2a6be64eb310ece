"""What a snapshot of the health of a running Annals contains, and its assessment."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from eventlog.reading.positions import NO_LOCKS, WriterLocks

WITHHELD_MAX_S = 20.0
"""Seconds for which an event may be withheld from readers: the server ends a writer after 15 s."""
JOBS_IDLE_MAX_S = 30.0
"""Seconds without any claim of an open job after which no worker seems to run."""
DAY_S = 86_400
MEBIBYTE = 1024**2

HealthStatus = Literal["ok", "degraded", "red"]


@dataclass(frozen=True)
class Disk:
    """The size of a disk, and what is free for an ordinary user."""

    size_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class ProjectionState:
    """The state of one projection, and its assessment."""

    name: str
    facts: dict[str, Any]
    """As `readmodels.operation.checkpoints.report` returns them."""
    is_held: bool
    """Whether a projector holds its lock."""
    is_stalled: bool
    alarms: list[str]
    """Why it is red."""
    remarks: list[str]
    """What needs attention although it makes progress."""

    @property
    def status(self) -> HealthStatus:
        """Red with an alarm, degraded with a remark, otherwise ok."""
        return "red" if self.alarms else "degraded" if self.remarks else "ok"

    @property
    def lag_s(self) -> float:
        """The age of the first event that it has not processed, in seconds."""
        return float(self.facts["lagSeconds"])

    def as_json(self) -> dict[str, Any]:
        """Return what is public: without the names of machines."""
        shown = ("position", "lagEvents", "lagSeconds", "idleSeconds", "parked", "faults")
        return {
            "name": self.name,
            "status": self.status,
            "reasons": self.alarms + self.remarks,
            **{name: self.facts[name] for name in shown},
        }


@dataclass(frozen=True)
class JobsState:
    """The open jobs of all workspaces."""

    open: int = 0
    oldest_s: float = 0.0
    """The age of the oldest open job."""
    idle_s: float = 0.0
    """The time since a worker last claimed one."""

    @property
    def remarks(self) -> list[str]:
        """What needs attention."""
        if self.open and self.idle_s > JOBS_IDLE_MAX_S:
            return [
                f"{self.open} jobs are open, and no worker has claimed one for {self.idle_s:.0f} s"
            ]
        return []

    def as_json(self) -> dict[str, Any]:
        """Return what is public."""
        return {
            "open": self.open,
            "oldestSeconds": self.oldest_s,
            "idleSeconds": self.idle_s,
            "reasons": self.remarks,
        }


@dataclass(frozen=True)
class StorageState:
    """The disk of the database and its backups."""

    is_read_only: bool = False
    """Whether the database refuses writes."""
    has_backup: bool = False
    backup_age_s: float = 0.0
    """The age of the last backup; without one, that of the first event."""
    disk: Disk | None = None
    """The disk of ANNALS_DISK_FOLDER; None if it is not known."""
    free_warn_bytes: int = 0
    backup_age_warn_s: int = 0

    @property
    def alarms(self) -> list[str]:
        """Why writes are not possible."""
        if not self.is_read_only:
            return []
        free = "" if self.disk is None else f": {mebibytes(self.disk.free_bytes)} of disk are free"
        return [f"the database refuses writes{free}"]

    @property
    def remarks(self) -> list[str]:
        """What an operator has to do before writes are refused or a loss cannot be made good."""
        found = []
        if self.disk is not None and self.disk.free_bytes < self.free_warn_bytes:
            found.append(f"only {mebibytes(self.disk.free_bytes)} of disk are free")
        if self.backup_age_warn_s and self.backup_age_s > self.backup_age_warn_s:
            days = f"{self.backup_age_s / DAY_S:.1f} days"
            found.append(
                f"the last backup is {days} old"
                if self.has_backup
                else f"there is no backup of {days} of history"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """Return what is public."""
        return {
            "readOnly": self.is_read_only,
            "freeBytes": self.disk and self.disk.free_bytes,
            "sizeBytes": self.disk and self.disk.size_bytes,
            "backupAgeSeconds": self.backup_age_s if self.has_backup else None,
            "reasons": self.alarms + self.remarks,
        }


@dataclass(frozen=True)
class HeldBack:
    """What the locks of announcements do to readers and writers of the log."""

    age_s: float = 0.0
    """Seconds for which readers have not seen all events that were committed."""
    locks: WriterLocks = NO_LOCKS

    @property
    def alarms(self) -> list[str]:
        """Why it needs an operator."""
        found, holder, blocker = [], self.locks.announcement, self.locks.exclusive
        if self.age_s > WITHHELD_MAX_S:
            by = holder or blocker
            found.append(
                f"events have been withheld from all readers of the log for {self.age_s:.0f} s"
                + (f", now by server process {by.pid} at position {by.bound}: end it" if by else "")
            )
        if blocker is not None:
            found.append(
                f"server process {blocker.pid} has, or waits for, an exclusive lock at position"
                f" {blocker.bound} of the log, which makes writes fail: end it"
            )
        return found


@dataclass(frozen=True)
class HealthSnapshot:
    """The state of the system at one moment. Rows are those of `readmodels.operation.health`."""

    error: str = ""
    """Why there is no state to show; empty if the database responded."""
    missing: tuple[str, ...] = ()
    """Migrations and projections of this version that the database does not have."""
    position: int = 0
    """The position up to which the log can be read."""
    held_back: HeldBack = HeldBack()
    deviations: tuple[str, ...] = ()
    """What protects the log less or differently than this version expects."""
    projections: tuple[ProjectionState, ...] = ()
    rebuilds: tuple[tuple[Any, ...], ...] = ()
    checks: tuple[tuple[Any, ...], ...] = ()
    batches: tuple[tuple[Any, ...], ...] = ()
    processes: tuple[tuple[Any, ...], ...] = ()
    process_alarms: tuple[str, ...] = ()
    """Process managers that do not react although there are events to react to."""
    breakers: tuple[tuple[Any, ...], ...] = ()
    jobs: JobsState = JobsState()
    storage: StorageState = StorageState()
    taken_at_s: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> HealthStatus:
        """The worst status of all parts."""
        if self.error or self.missing or self.process_alarms or self.deviations:
            return "red"
        if self.held_back.alarms or self.storage.alarms:
            return "red"
        found = {each.status for each in self.projections}
        if self.jobs.remarks or self.storage.remarks:
            found.add("degraded")
        return "red" if "red" in found else "degraded" if "degraded" in found else "ok"

    @property
    def alarms(self) -> list[str]:
        """Why the status is red, unless the database did not respond at all."""
        red = [each for each in self.projections if each.status == "red"]
        return [
            *(f"{each.name}: {'; '.join(each.alarms)}" for each in red),
            *(f"the database lacks {each}" for each in self.missing),
            *(f"the database {each}" for each in self.deviations),
            *self.held_back.alarms,
            *self.storage.alarms,
            *self.process_alarms,
        ]

    @property
    def lag_max_s(self) -> float:
        """The largest lag of any projection, in seconds."""
        return max((each.facts["lagSeconds"] for each in self.projections), default=0)

    def lagging(self, limit_s: float) -> list[ProjectionState]:
        """Return the projections that are further behind than this."""
        return [each for each in self.projections if each.lag_s > limit_s]

    def projections_as_json(self) -> list[dict[str, Any]]:
        """Return what is public of each projection."""
        return [each.as_json() for each in self.projections]


def mebibytes(number: int) -> str:
    """Write a number of bytes for people."""
    return f"{number // MEBIBYTE:,} MiB"
