"""`annals up`: the database and all processes on it under one roof, until Ctrl-C.

The supervisor starts them in order, starts again what dies, and stops them in the opposite order.
Children end with it even if it is killed (see orphan), and so does the embedded PostgreSQL.
"""

import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psycopg

from runtime.home import AlreadyHeldError, HomeLock, make_home, write_private
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from server.postgres.databases import Database
from server.postgres.processes import EmbeddedPostgresError

LOOP_INTERVAL_S = 0.1
HEALTH_WAIT_MAX_S = 60.0
HEALTH_REQUEST_TIMEOUT_S = 1.0
CHILD_STOP_MARGIN_S = 5.0
RESTART_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_AFTER_S = 30.0
"""A child that lived this long counts as healthy, and its next restart is quick again."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]
Prepare = Callable[[Settings], str]


class SupervisorError(Exception):
    """Annals cannot be started; the message is one sentence with a remedy."""


def up(settings: Settings, prepare: Prepare, say: Say) -> None:
    """Run Annals until a stop signal. Returns after a clean stop.

    `prepare` gets settings with database URLs after the migrations have run, and returns the access
    token. `say` gets every line for the user. Raises SupervisorError or EmbeddedPostgresError.
    """
    url = f"http://{settings.host}:{settings.port}"
    stop = StopSignals()
    with stop.installed(), _sole_supervisor(settings.home, url):
        require_free_port(settings.host, settings.port)
        with Database(settings, join_running=False) as database:
            _migrate(database.settings)
            token = prepare(database.settings)
            Supervisor(database, token, url, stop, say).run()


class StopSignals:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a request to stop.

    While things are being started the request interrupts at once; from then on it only counts, for
    an exception in the middle of stopping would leave processes behind.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.interrupts = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within the block, and put the earlier handlers back afterwards."""
        before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requests += 1
        if self.interrupts:
            self.interrupts = False  # once; the clean-up that follows is not interrupted
            raise KeyboardInterrupt


class Child:
    """One process that is started again when it ends."""

    def __init__(self, name: str, command: str, say: Say) -> None:
        self.name = name
        self._arguments = [sys.executable, "-P", "-m", "server.cli", command]
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._restart_at = 0.0
        self._failures = 0

    def keep_alive(self, environment: Mapping[str, str]) -> None:
        """Start it if it does not run and its delay is over; called in every round of the loop."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self._schedule_restart(code)
        if self._process is None and time.monotonic() >= self._restart_at:
            self._started_at = time.monotonic()
            # A session of its own keeps the terminal's Ctrl-C away: the supervisor passes it on.
            self._process = subprocess.Popen(
                self._arguments,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def stop(self, wait_max_s: float, is_hurried: Callable[[], bool]) -> None:
        """Ask it to end, and kill it when it has not after `wait_max_s`, or on a second Ctrl-C."""
        process, self._process = self._process, None
        self._restart_at = 0.0
        if process is None or process.poll() is not None:
            return
        process.terminate()
        deadline = time.monotonic() + wait_max_s
        while process.poll() is None:
            if is_hurried() or time.monotonic() > deadline:
                self._say(f"{self.name} did not stop in time and was killed.")
                process.kill()
                process.wait()
                return
            time.sleep(LOOP_INTERVAL_S / 10)

    def _schedule_restart(self, code: int) -> None:
        now = time.monotonic()
        if now - self._started_at > STEADY_AFTER_S:
            self._failures = 0
        delay_s = restart_delay_s(self._failures)
        self._failures += 1
        self._restart_at = now + delay_s
        self._say(f"{self.name} ended ({_exit_in_words(code)}); starting it again in {delay_s} s.")


class Supervisor:
    """The loop that keeps API, projector, sender and worker running on one database."""

    def __init__(
        self, database: Database, token: str, url: str, stop: StopSignals, say: Say
    ) -> None:
        self._database = database
        self._token = token
        self._url = url
        self._stop = stop
        self._say = say
        self._api = Child("The API", "serve", say)
        self._projector = Child("The projector", "project", say)
        self._sender = Child("The sender", "send", say)
        self._worker = Child("The worker", "work", say)
        self._database_failures = 0

    def run(self) -> None:
        """Start the children, say so once the API answers, and watch until a stop is asked for.

        Raises SupervisorError when the API never answers within HEALTH_WAIT_MAX_S seconds.
        """
        connection_file = self._database.settings.home / "connection.json"
        connection_file.unlink(missing_ok=True)
        give_up_at = time.monotonic() + HEALTH_WAIT_MAX_S
        is_announced = False
        self._stop.interrupts = False
        try:
            while not self._stop.requests:
                self._keep_alive()
                if not is_announced and is_healthy(self._database.settings):
                    is_announced = True
                    self._announce(connection_file)
                elif not is_announced and time.monotonic() > give_up_at:
                    raise SupervisorError(
                        f"The API did not answer at {self._url} within {HEALTH_WAIT_MAX_S:.0f} s:"
                        " what it printed above says why."
                    )
                time.sleep(LOOP_INTERVAL_S)
        finally:
            connection_file.unlink(missing_ok=True)
            self._stop_children()

    def _keep_alive(self) -> None:
        if self._database.has_died():
            self._revive_database()
            return
        settings = self._database.settings
        self._api.keep_alive(child_environment(settings, "app_url"))
        self._projector.keep_alive(child_environment(settings, "projector_url"))
        if settings.sender_url is not None:
            self._sender.keep_alive(child_environment(settings, "sender_url"))
        self._worker.keep_alive(child_environment(settings, "app_url"))

    def _revive_database(self) -> None:
        delay_s = restart_delay_s(self._database_failures)
        self._say(f"PostgreSQL ended; starting it again in {delay_s} s.")
        self._stop_children()
        self._sleep(delay_s)
        if self._stop.requests:
            return
        try:
            self._database.revive()
        except (EmbeddedPostgresError, psycopg.Error) as error:
            self._database_failures += 1
            self._say(str(error))
        else:
            self._database_failures = 0

    def _stop_children(self) -> None:
        asked_before = self._stop.requests
        wait_max_s = self._database.settings.shutdown_timeout_s + CHILD_STOP_MARGIN_S
        for child in (self._api, self._sender, self._worker, self._projector):
            child.stop(wait_max_s, lambda: self._stop.requests > max(asked_before, 1))

    def _sleep(self, duration_s: float) -> None:
        until = time.monotonic() + duration_s
        while not self._stop.requests and time.monotonic() < until:
            time.sleep(LOOP_INTERVAL_S)

    def _announce(self, connection_file: Path) -> None:
        connection = {"url": self._url, "token": self._token, "pid": os.getpid()}
        write_private(connection_file, json.dumps(connection))
        for line in welcome(self._url, self._token, self._database.place):
            self._say(line)


def welcome(url: str, token: str, place: str) -> list[str]:
    """What the user reads once everything answers."""
    curl = f"curl -H 'Authorization: Bearer {token}'"
    return [
        "",
        f"Annals answers at {url}",
        f"Token: {token}",
        "",
        "Worth trying:",
        f"  {curl} '{url}/api/accounts?pageSize=3'",
        f"  {curl} -H 'Content-Type: application/json' {url}/api/accounts \\",
        '    -d \'{"type": "customer", "company": "Example Ltd"}\'',
        f"  {curl} '{url}/api/audit?pageSize=3'",
        "",
        f"Ctrl-C stops it; the data stays in {place}.",
    ]


def require_free_port(host: str, port: int) -> None:
    """Raise SupervisorError where the API could not listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "is taken by another program"
            elif error.errno == errno.EACCES:
                reason = "may not be used by this user"
            else:
                reason = f"on {host} cannot be used ({(error.strerror or str(error)).lower()})"
            raise SupervisorError(f"Port {port} {reason}: choose another with --port.") from error


def restart_delay_s(failures: int) -> float:
    """Seconds to wait before the restart after so many failures in a row; it never gives up."""
    return RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]


def child_environment(settings: Settings, own_url: str) -> dict[str, str]:
    """This process's environment with the settings as they are now, for a child process.

    Of the database URLs it gets the one that it connects with, by the name of the setting.
    """
    environment = dict(os.environ)
    for name, value in settings.model_dump().items():
        variable = f"ANNALS_{name.upper()}"
        if value is None or (name.endswith("_url") and name != own_url):
            environment.pop(variable, None)
        else:
            environment[variable] = str(value)
    if settings.log_level is None and not settings.access_log:
        environment["ANNALS_LOG_LEVEL"] = "warning"  # a person reads along
    environment[SUPERVISOR_PID_VARIABLE] = str(os.getpid())
    environment["PYTHONPATH"] = str(REPOSITORY)
    return environment


def is_healthy(settings: Settings) -> bool:
    """Whether GET /livez answers 200 within HEALTH_REQUEST_TIMEOUT_S seconds."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=HEALTH_REQUEST_TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _sole_supervisor(home: Path, url: str) -> Iterator[None]:
    lock = HomeLock(home / "annals.lock")
    try:
        make_home(home)
        lock.acquire(url)
    except AlreadyHeldError as error:
        raise SupervisorError(
            f"Annals in {home} is {error}: use that one, stop it, or set ANNALS_HOME."
        ) from error
    except OSError as error:
        raise SupervisorError(
            f"{home} cannot be used ({(error.strerror or str(error)).lower()}): give it to this"
            " user, or set ANNALS_HOME."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _migrate(settings: Settings) -> None:
    from eventlog.migrations import MigrationBlocked
    from server.postgres.upgrade import upgrade

    if settings.owner_url is not None and settings.projector_url is not None:
        try:
            upgrade(settings.owner_url, settings.projector_url)
        except MigrationBlocked as error:
            raise SupervisorError(str(error)) from None


def _exit_in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"
