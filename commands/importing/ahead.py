"""Plan the rows of a file in another process, while this one decides and records those before.

The process gets the bytes of the file and returns planned rows. It has no connection and records
nothing, so wherever it is killed, no row is lost or recorded twice: the rows that it has not
returned are planned in this process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

from commands.importing.files import FilePlace, SourceTable, UploadedFile, take_rows
from commands.importing.issues import ImportRefused
from commands.importing.mapping import Column, ImportOptions
from commands.importing.rows import Directory, PlannedRow, RowPlanner
from commands.importing.store import StoredFile
from eventlog.clock import local_time

log = logging.getLogger(__name__)

BATCH_ROWS = 500
"""Rows per transaction, which takes about 100 ms. The database ends transactions after 15 s."""
ROWS_MIN = 10_000
"""Rows that have to be left to start a process, which takes a second of CPU."""
NAMES_MAX = 50_000
"""Maximum number of names of accounts and members that are copied into the process."""
CORES_MIN = 2
IDLE_S = 30
"""Seconds after which the process ends if its rows are not taken, because the job has ended or
others run before it."""
BATCH_WAIT_S = 3.0
"""Seconds after which a process that returns no batch is ended. A transaction is open meanwhile,
which may be idle for 5 s."""
END_WAIT_S = 1.0
PROCESS = "annals-planner"


@dataclass(frozen=True)
class PlannedBatch:
    """Planned rows in order, and the place where the next row begins."""

    rows: Sequence[PlannedRow]
    end: FilePlace


@dataclass(frozen=True)
class PlanningTask:
    """What the process needs to plan the rows of a file, except for its bytes."""

    name: str
    file: StoredFile
    options: ImportOptions
    columns: Sequence[Column]
    directory: Directory
    clock_ahead: timedelta
    """The difference of the database's clock from this machine's."""
    prepare: Callable[[], None]
    """Called in the process before it plans."""

    def now(self) -> datetime:
        """Return the time of the database's clock."""
        return local_time() + self.clock_ahead


def can_plan_ahead(rows: int, directory: Directory) -> bool:
    """Whether another process is of use for this number of rows."""
    names = len(directory.accounts.targets) + len(directory.members.targets)
    return rows >= ROWS_MIN and names <= NAMES_MAX and _cores() >= CORES_MIN


def _cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class PlannerProcess:
    """Plans the rows of one file in another process, one batch ahead. Not thread-safe.

    `read_part` reads a part of the file, in this process.
    """

    def __init__(self, task: PlanningTask, read_part: Callable[[int], bytes]) -> None:
        self._task = task
        self._read_part = read_part
        self._process: SpawnProcess | None = None
        self._pipe: Pipe | None = None
        self._place: FilePlace | None = None
        """Where the next batch of the process begins; None before it was given a place."""
        self._is_lost = False

    def take(self, place: FilePlace, limit: int, rows_left: int) -> PlannedBatch | None:
        """The next at most `limit` of the rows that are left at this place.

        None if the caller has to plan them, because the process is starting, plans other rows, or
        has ended.
        """
        is_full = limit >= min(BATCH_ROWS, rows_left)
        try:
            if self._pipe is None:
                if is_full and rows_left >= ROWS_MIN and not self._is_lost:
                    self._start()
                return None
            if self._place is None and is_full and self._pipe.poll():
                self._pipe.recv()  # it has started
                self._pipe.send((place, rows_left))
                self._place = place
            if self._place is None and rows_left > BATCH_ROWS:
                return None
            if self._place != place or not is_full:
                self.close()
                return None
            batch = self._receive()
        except (EOFError, OSError) as error:
            self._handle_loss(error)
            self.close()
            return None
        self._place = batch.end
        if len(batch.rows) == rows_left:
            self.close()
        return batch

    def close(self) -> None:
        """End the process. A later `take` may start another one."""
        pipe, process = self._pipe, self._process
        self._pipe = self._process = self._place = None
        if pipe is not None and process is not None:
            process.kill()
            process.join()
            process.close()
            pipe.close()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        arguments = (theirs, self._task)
        self._process = spawn.Process(target=_run, args=arguments, name=PROCESS, daemon=True)
        self._process.start()
        theirs.close()

    def _receive(self) -> PlannedBatch:
        """The next batch. Meanwhile, send the parts of the file that the process asks for.

        Raises `EOFError` and `OSError` if the process ends, as it does after `BATCH_WAIT_S`.
        """
        assert self._pipe is not None
        assert self._process is not None
        watchdog = threading.Timer(BATCH_WAIT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            while not isinstance(message := self._pipe.recv(), PlannedBatch):
                self._pipe.send((message, self._read_part(message)))
            return message
        finally:
            watchdog.cancel()

    def _handle_loss(self, error: Exception) -> None:
        """Start no other process, unless this one has ended as it should: it was idle, or it could
        not read the file.
        """
        if self._process is not None:
            self._process.join(END_WAIT_S)
            if self._process.exitcode in (0, -signal.SIGALRM):
                return
        self._is_lost = True
        log.warning("rows are planned in this process, as the other one failed: %r", error)


def _run(pipe: Pipe, task: PlanningTask) -> None:
    """Plan rows from the place that is received, until the file ends. Runs in the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task.prepare()
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive_all, args=(pipe, received), daemon=True).start()
    parts = _Parts(pipe, received)
    file = task.file
    source = UploadedFile(task.name, file.size_bytes, parts.read)
    table = SourceTable(source, file.encoding, file.delimiter, file.columns, file.rows)
    planner = RowPlanner(task.options, task.columns, task.directory, task.now)
    try:
        _send(pipe, None)
        place, rows_left = _wait(received.get)
        rows = islice(table.rows(place), rows_left)
        while batch := list(take_rows(rows, place, BATCH_ROWS)):
            place = batch[-1].end
            _send(pipe, PlannedBatch([planner.plan(row) for row in batch], place))
    except (ImportRefused, OSError):
        return  # the other process has ended, or reads the same bytes and reports why it cannot


class _Parts:
    """The parts of the file, of which the next one is asked for before it is needed."""

    def __init__(self, pipe: Pipe, received: SimpleQueue[Any]) -> None:
        self._pipe = pipe
        self._received = received
        self._asked = -1

    def read(self, number: int) -> bytes:
        """Return a part. Parts are read in order."""
        if self._asked != number:
            _send(self._pipe, number)
        part_number, part = _wait(self._received.get)
        assert part_number == number
        self._asked = number + 1
        if part:
            _send(self._pipe, self._asked)
        return bytes(part)


def _receive_all(pipe: Pipe, received: SimpleQueue[Any]) -> None:
    """Receive in a thread, so that the other process never waits while this one sends."""
    try:
        while True:
            received.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)  # the other process has ended


def _send(pipe: Pipe, message: object) -> None:
    _wait(partial(pipe.send, message))


def _wait(act: Callable[[], Any]) -> Any:
    """Do something that waits for the other process, and end after `IDLE_S` seconds."""
    signal.alarm(IDLE_S)
    result = act()
    signal.alarm(0)
    return result
