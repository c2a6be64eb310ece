"""Helpers for tests of Kafka: a topic for each test, its messages, and Annals' processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from uuid import UUID, uuid4

import orjson
import psycopg

from eventlog.kafka.broker import Broker, close_quietly
from eventlog.kafka.message import read_head
from eventlog.kafka.relay import Relay
from eventlog.kafka.tail import read_between
from projections.changes import Projection
from projections.engine.kafka.consumer import GroupEngine
from projections.engine.registry import PROJECTIONS
from tests.support.databases import Urls
from tests.support.kafka_broker import RunningKafka
from tests.support.waiting import wait_until

PARTITIONS = 4
SESSION_TIMEOUT_MS = 1_500
TIMEOUT_S = 240.0
"""Consumer groups may rebalance several times on a loaded machine."""
STOP_WAIT_S = 20.0
OUTPUT_MAX_BYTES = 10_000_000
LOWEST_POSITION = "SELECT coalesce(min(position), 0) FROM projections WHERE name = ANY(%s)"
INSERT = """
INSERT INTO events (workspace_id, stream_id, stream_version, topic, account_id, data, metadata,
                    occurred_at)
VALUES (%s, %s, 1, 'account.created', NULL, %s, '{}', now()) RETURNING position
"""


@dataclass
class KafkaHarness:
    """One log and the topic to which it is published."""

    urls: Urls
    kafka: RunningKafka
    broker: Broker

    @classmethod
    def create(cls, kafka: RunningKafka, urls: Urls) -> KafkaHarness:
        """Use a topic and a consumer group with a new name."""
        name = f"annals.{uuid4().hex[:8]}"
        return cls(urls, kafka, Broker(kafka.bootstrap, topic=name, group=name,
                                       session_timeout_ms=SESSION_TIMEOUT_MS))  # fmt: skip

    def relay(self, *, recreate: bool = False, partitions: int = PARTITIONS) -> Relay:
        """Publish the log up to its end; return the relay."""
        relay = Relay(self.urls.projector, self.broker, partitions=partitions, recreate=recreate)
        relay.run(once=True)
        return relay

    def messages(self) -> Iterator[Any]:
        """Yield all messages, marks included, partition by partition."""
        reader = self.broker.reader()
        try:
            partitions = self.broker.partitions(sorted(reader.partitions_for_topic(self.topic)))
            begins, ends = reader.beginning_offsets(partitions), reader.end_offsets(partitions)
            for each in partitions:
                yield from read_between(reader, each, begins[each], ends[each])
        finally:
            close_quietly(reader)

    def positions(self) -> list[list[int]]:
        """Return the positions of the events in each partition, in order of offset."""
        found: list[list[int]] = [[] for _ in range(PARTITIONS)]
        for message in self.messages():
            head = read_head(message.headers)
            if not head.is_mark:
                found[message.partition].append(head.position)
        return found

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self.broker.topic

    def group(
        self, projections: Iterable[Projection] = PROJECTIONS.values(), *, group: str = ""
    ) -> GroupEngine:
        """Return a member of the consumer group, or of another one."""
        broker = Broker(self.broker.bootstrap, self.topic, group or self.broker.group,
                        SESSION_TIMEOUT_MS)  # fmt: skip
        return GroupEngine(self.urls.projector, projections, broker)

    def consumed(self, position: int) -> bool:
        """Whether all projections have reached a position."""
        with psycopg.connect(self.urls.projector, autocommit=True) as connection:
            row = connection.execute(LOWEST_POSITION, (list(PROJECTIONS),)).fetchone()
        return row is not None and row[0] >= position

    def wait_until_consumed(self, position: int) -> None:
        """Wait until all projections have reached a position."""
        wait_until(
            lambda: self.consumed(position),
            f"the group has consumed up to position {position}",
            timeout_s=TIMEOUT_S,
        )

    @contextmanager
    def command(self, *arguments: str, **settings: str) -> Iterator[Command]:
        """Run a command of annals in a process that is ended with the block."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.getcwd(),
            "ANNALS_PROJECTOR_URL": self.urls.projector,
            "ANNALS_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "ANNALS_KAFKA_TOPIC": self.topic,
            "ANNALS_KAFKA_GROUP": self.broker.group,
            "ANNALS_KAFKA_PARTITIONS": str(PARTITIONS),
            "ANNALS_KAFKA_SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
            **settings,
        }
        with tempfile.TemporaryFile() as output:
            command = [sys.executable, "-P", "-m", "server.cli", *arguments]
            with subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            ) as process:
                running = Command(process, output)
                try:
                    yield running
                except BaseException:
                    sys.stderr.write(f"{arguments} wrote: {running.read_output()}\n")
                    raise
                finally:
                    running.end()


@dataclass
class Command:
    """A running command of annals.

    Its output goes to a file, because a process blocks on a full pipe.
    """

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def ended(self) -> tuple[int, str]:
        """Wait until the process ends; return its exit code and output."""
        return self.process.wait(timeout=TIMEOUT_S), self.read_output()

    def read_output(self) -> str:
        """Return the output so far."""
        return os.pread(self.output.fileno(), OUTPUT_MAX_BYTES, 0).decode(errors="replace")

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait for its end."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Terminate the process. Raises `TimeoutExpired` if it takes longer than STOP_WAIT_S."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def running_groups(*engines: GroupEngine) -> Iterator[None]:
    """Run the engines in threads while the block lasts."""
    threads = [threading.Thread(target=engine.run) for engine in engines]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for engine in engines:
            engine.stop()
        for thread in threads:
            thread.join()


def append(connection: psycopg.Connection[Any], workspace: UUID, company: str = "Acme") -> int:
    """Insert the creation of an account by plain SQL; return its position."""
    connection.execute("SELECT set_config('annals.workspace_id', %s, true)", (str(workspace),))
    fields = {"company": company, "type": "partner", "status": "prospect", "priority": "low"}
    data = orjson.dumps({"fields": fields}).decode()
    row = connection.execute(INSERT, (workspace, uuid4(), data)).fetchone()
    assert row is not None
    return int(row[0])
