"""An Apache Kafka broker (KRaft) for tests, fetched once from Maven Central, without Docker."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.support.waiting import wait_until

KAFKA = "4.1.1"
LOG4J = "2.25.1"
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
FETCH_WAIT_S = 600
START_TIMEOUT_S = 60
STOP_WAIT_S = 20
HEAP = "512m"
SESSION_TIMEOUT_MIN_MS = 1_000

ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA),
    *(
        ("org.apache.logging.log4j", name, LOG4J)
        for name in ("log4j-api", "log4j-core", "log4j-slf4j-impl")
    ),
)
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms={session_timeout_ms}
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
"""


class KafkaUnavailable(Exception):
    """Kafka cannot run here; the message says why in one sentence."""


def jars() -> Path:
    """Return the folder of Kafka's jars; fetch them with mvn first if they are missing.

    The folder is in ANNALS_KAFKA_CACHE, by default in the user's cache. Raises `KafkaUnavailable`.
    """
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise KafkaUnavailable(f"{tool} is not installed")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "annals"
    cache = Path(os.environ.get("ANNALS_KAFKA_CACHE", default))
    cache.mkdir(parents=True, exist_ok=True)
    ready = cache / f"kafka-{KAFKA}-{LOG4J}"
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            _fetch(ready)
    return ready


def _fetch(ready: Path) -> None:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, name, version in ARTIFACTS
    )
    with tempfile.TemporaryDirectory(dir=ready.parent) as folder:
        (Path(folder) / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            "<groupId>annals</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>"
            f"<dependencies>{dependencies}</dependencies></project>",
            encoding="utf-8",
        )
        command = ["mvn", "-q", "-B", COPY_GOAL, "-DincludeScope=runtime", "-DoutputDirectory=libs"]
        try:
            subprocess.run(command, cwd=folder, check=True, timeout=FETCH_WAIT_S,
                           capture_output=True)  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            output = getattr(error, "stdout", b"") or b""
            raise KafkaUnavailable(
                f"mvn could not fetch it: {error} {output[-500:].decode(errors='replace')}"
            ) from None
        (Path(folder) / "libs").rename(ready)


class RunningKafka:
    """One broker with its own ports and folder; it may be killed and started again."""

    def __init__(self, libraries: Path, folder: Path, properties: str = PROPERTIES) -> None:
        self._classpath = f"{libraries}/*"
        self._folder = folder
        self._port, controller = _free_ports(2)
        self._properties = folder / "server.properties"
        self._properties.write_text(
            properties.format(
                port=self._port,
                controller=controller,
                folder=folder,
                session_timeout_ms=SESSION_TIMEOUT_MIN_MS,
            ),
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._java(
            "kafka.tools.StorageTool", "format", f"--cluster-id={CLUSTER_ID}",
            "-c", str(self._properties),
        ).wait(START_TIMEOUT_S)  # fmt: skip

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the broker and wait until it answers. Raises `KafkaUnavailable`."""
        self._process = self._java("kafka.Kafka", str(self._properties))
        process = self._process

        def has_started() -> bool:
            assert process.poll() is None, "the broker ended"
            return self._answers()

        try:
            wait_until(has_started, "the broker answers", timeout_s=START_TIMEOUT_S)
        except AssertionError as error:
            output = (self._folder / "output").read_text(errors="replace")
            raise KafkaUnavailable(f"{error}: {output[-1_000:]}") from None

    def kill(self) -> None:
        """Kill the broker with SIGKILL: it flushes nothing and closes no connection."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_WAIT_S)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended; it may be paused."""
        return self._process is not None and self._process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send SIGSTOP or SIGCONT to the broker's process."""
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self._port)) != 0:
                return False
        try:
            client = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=2_000)
            client.close()
        except KafkaError:
            return False
        return True

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["java", f"-Xmx{HEAP}", "-XX:TieredStopAtLevel=1", "-cp", self._classpath]
        with (self._folder / "output").open("ab") as output:
            return subprocess.Popen(
                [*command, *arguments], cwd=self._folder, stdout=output, stderr=output
            )


def session_kafka(properties: str = PROPERTIES) -> Iterator[RunningKafka]:
    """Provide a broker for the test run. Without Kafka the tests are skipped, and fail in CI."""
    try:
        with running_kafka(properties) as broker:
            yield broker
    except KafkaUnavailable as reason:
        line = f"TESTS OF KAFKA DID NOT RUN: {reason}"
        if os.environ.get("CI") == "true":
            pytest.fail(line, pytrace=False)
        pytest.skip(line)


@contextmanager
def running_kafka(properties: str = PROPERTIES) -> Iterator[RunningKafka]:
    """Run a broker while the block lasts. Raises `KafkaUnavailable`."""
    libraries = jars()
    with tempfile.TemporaryDirectory(prefix="annals-kafka-") as folder:
        broker = RunningKafka(libraries, Path(folder), properties)
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
