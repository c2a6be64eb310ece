"""`annals up`: runs the database and all processes on this machine until Ctrl-C.

The supervisor starts the database before the other processes, restarts those that end, and stops
the database last. The child processes end with it even if it is killed
(`runtime.process.end_with_supervisor`), and so does the embedded PostgreSQL.
"""

import errno
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psycopg

from eventlog.retries import poll_until
from runtime.home import AlreadyHeldError, HomeLock, make_home, token_file, write_private
from runtime.process import SUPERVISOR_PID_VARIABLE
from runtime.settings import REPOSITORY, Settings
from server.postgres.databases import Database
from server.postgres.processes import EmbeddedPostgresError
from server.processes.disk_guard import DiskGuard

LOOP_INTERVAL_S = 0.1
STOP_POLL_INTERVAL_S = 0.01
FIRST_START_STEPS = 4
REMINDER_AFTER_S = 60.0
"""How often the user is reminded that the API does not answer yet."""
HEALTH_REQUEST_TIMEOUT_S = 1.0
CHILD_STOP_MARGIN_S = 5.0
RESTART_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
STABLE_AFTER_S = 30.0
"""A child that ran this long counts as stable: its next restart has the shortest delay again."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PrintLine = Callable[[str], None]
Prepare = Callable[[Settings], "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """The access token of this home, its private file, and whether this start issued it."""

    token: str
    path: Path
    is_new: bool


class SupervisorError(Exception):
    """Annals cannot be started; the message is one sentence with a remedy."""


def run_supervisor(settings: Settings, prepare: Prepare, print_line: PrintLine) -> None:
    """Run Annals until a stop signal, and return after a clean stop.

    `prepare` is called with settings that have database URLs, after the migrations, and returns the
    access token. `print_line` prints a line for the user. Raises SupervisorError or
    EmbeddedPostgresError.
    """
    url = f"http://{settings.host}:{settings.port}"
    stop = StopSignals()
    if "rebuild_changed" not in settings.model_fields_set:
        # All processes of this home run this version of the code.
        settings = settings.model_copy(update={"rebuild_changed": True})
    is_first = not token_file(settings).exists()

    def report(step: int, what: str) -> None:
        if is_first:  # later starts take seconds
            print_line(f"[{step}/{FIRST_START_STEPS}] {what} ...")

    print_line = tolerant(print_line)
    with stop.installed(), _supervisor_lock(settings.home, url):
        require_free_port(settings.host, settings.port)
        where = "Connecting to" if settings.has_database_urls else "Unpacking and starting"
        report(1, f"{where} PostgreSQL")
        with Database(settings, join_running=False) as database:
            report(2, "Creating the tables")
            _migrate(database.settings)
            report(3, "Creating the workspace and its first key")
            prepared = prepare(database.settings)
            report(4, "Starting API, projector, sender and worker")
            Supervisor(database, prepared, url, stop, print_line).run()


def tolerant(print_line: PrintLine) -> PrintLine:
    """A function that does nothing if the line cannot be written, for example to a full disk."""

    def print_if_possible(line: str) -> None:
        with suppress(OSError):
            print_line(line)

    return print_if_possible


class StopSignals:
    """Counts requests to stop: Ctrl-C, SIGTERM and a closed terminal.

    During the start a request raises KeyboardInterrupt. Later it is only counted, because an
    exception while stopping would leave processes running.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.interrupts = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within the block, then restore the previous handlers."""
        before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requests += 1
        if self.interrupts:
            self.interrupts = False  # so that the following clean-up is not interrupted
            raise KeyboardInterrupt


class Child:
    """One process that is restarted when it ends."""

    def __init__(self, name: str, command: str, print_line: PrintLine) -> None:
        self.name = name
        self._arguments = [sys.executable, "-P", "-m", "server.cli", command]
        self._print_line = print_line
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._restart_at = 0.0
        self._failures = 0

    def ensure_running(self, environment: Mapping[str, str]) -> None:
        """Start the process if it is not running and its restart delay is over."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self._schedule_restart(code)
        if self._process is None and time.monotonic() >= self._restart_at:
            self._started_at = time.monotonic()
            # In a new session the terminal's Ctrl-C reaches only the supervisor, which stops this.
            self._process = subprocess.Popen(
                self._arguments,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def stop(self, wait_max_s: float, is_hurried: Callable[[], bool]) -> None:
        """Terminate the process; kill it after `wait_max_s` seconds or once `is_hurried`."""
        process, self._process = self._process, None
        self._restart_at = 0.0
        if process is None or process.poll() is not None:
            return
        process.terminate()
        poll_until(
            lambda: process.poll() is not None or is_hurried(), wait_max_s, STOP_POLL_INTERVAL_S
        )
        if process.poll() is None:
            self._print_line(f"{self.name} did not stop in time and was killed.")
            process.kill()
            process.wait()

    def _schedule_restart(self, code: int) -> None:
        now = time.monotonic()
        if now - self._started_at > STABLE_AFTER_S:
            self._failures = 0
        delay_s = restart_delay_s(self._failures)
        self._failures += 1
        self._restart_at = now + delay_s
        reason = _describe_exit(code)
        self._print_line(f"{self.name} ended ({reason}); starting it again in {delay_s} s.")


class Supervisor:
    """The loop that keeps API, projector, sender and worker running on one database."""

    def __init__(
        self,
        database: Database,
        prepared: Prepared,
        url: str,
        stop: StopSignals,
        print_line: PrintLine,
    ) -> None:
        self._database = database
        self._prepared = prepared
        self._url = url
        self._stop = stop
        self._print_line = print_line
        self._api = Child("The API", "serve", print_line)
        self._projector = Child("The projector", "project", print_line)
        self._sender = Child("The sender", "send", print_line)
        self._worker = Child("The worker", "work", print_line)
        self._database_failures = 0
        self._guard = DiskGuard(print_line, database.settings.disk_free_min_bytes)

    def run(self) -> None:
        """Start the children, announce the API once it answers, and watch until a stop request."""
        connection_file = self._database.settings.home / "connection.json"
        connection_file.unlink(missing_ok=True)
        remind_at = time.monotonic() + REMINDER_AFTER_S
        is_announced = False
        self._stop.interrupts = False
        try:
            while not self._stop.requests:
                self._ensure_running()
                if is_announced:
                    self._write_connection(connection_file)
                elif is_healthy(self._database.settings):
                    is_announced = True
                    self._announce(connection_file)
                elif time.monotonic() > remind_at:
                    remind_at = time.monotonic() + REMINDER_AFTER_S
                    self._print_line(
                        f"The API does not answer at {self._url} yet; its output above may have"
                        " the reason. Ctrl-C stops everything."
                    )
                time.sleep(LOOP_INTERVAL_S)
        finally:
            connection_file.unlink(missing_ok=True)
            self._stop_children()

    def _ensure_running(self) -> None:
        if self._database.has_crashed():
            self._restart_database()
        elif self._database.cluster is not None:
            self._guard.check(self._database.cluster)
        settings = self._database.settings
        self._api.ensure_running(child_environment(settings, "app_url"))
        self._projector.ensure_running(child_environment(settings, "projector_url"))
        if settings.sender_url is not None:
            self._sender.ensure_running(child_environment(settings, "sender_url"))
        self._worker.ensure_running(child_environment(settings, "app_url"))

    def _restart_database(self) -> None:
        delay_s = restart_delay_s(self._database_failures)
        self._print_line(f"PostgreSQL ended; starting it again in {delay_s} s.")
        self._sleep(delay_s)
        if self._stop.requests:
            return
        before = self._database.settings
        try:
            self._database.restart()
        except (EmbeddedPostgresError, psycopg.Error) as error:
            self._database_failures += 1
            self._print_line(str(error))
        else:
            self._database_failures = 0
        if self._database.settings != before:  # the processes have addresses of the old server
            self._stop_children()

    def _stop_children(self) -> None:
        requests_before = self._stop.requests
        wait_max_s = self._database.settings.shutdown_timeout_s + CHILD_STOP_MARGIN_S
        for child in (self._api, self._sender, self._worker, self._projector):
            child.stop(wait_max_s, lambda: self._stop.requests > max(requests_before, 1))

    def _sleep(self, duration_s: float) -> None:
        """Sleep, but not beyond a request to stop."""
        poll_until(lambda: self._stop.requests > 0, duration_s, LOOP_INTERVAL_S)

    def _announce(self, connection_file: Path) -> None:
        self._write_connection(connection_file)
        shows_token = self._prepared.is_new and sys.stdout.isatty()
        for line in welcome_lines(self._url, self._prepared, self._database.location, shows_token):
            self._print_line(line)

    def _write_connection(self, connection_file: Path) -> None:
        """Write the file if it is missing, which a full disk may prevent for a time."""
        if not connection_file.exists():
            connection = {"url": self._url, "token": self._prepared.token, "pid": os.getpid()}
            with suppress(OSError):
                write_private(connection_file, json.dumps(connection))


def welcome_lines(url: str, prepared: Prepared, location: str, shows_token: bool) -> list[str]:
    """Return the lines that the user sees once the API answers.

    The token is shown at the first start, on a terminal only, because logs are kept. The commands
    read it from its file, so that it gets into no shell history.
    """
    curl = f'curl -H "Authorization: Bearer $(cat {shlex.quote(str(prepared.path))})"'
    shown = f"Token, shown only now: {prepared.token}"
    return [
        "",
        f"Annals answers at {url}",
        *([shown] if shows_token else []),
        f"The token is in {prepared.path}.",
        "",
        "Try:",
        f"  {curl} '{url}/api/accounts?pageSize=3'",
        f"  {curl} -H 'Content-Type: application/json' {url}/api/accounts \\",
        '    -d \'{"type": "customer", "company": "Example Ltd"}\'',
        f"  {curl} '{url}/api/audit?pageSize=3'",
        "",
        "For projections and their jobs, issue an operator key: annals operators issue NAME",
        "",
        f"Ctrl-C stops it; the data stays in {location}.",
    ]


def require_free_port(host: str, port: int) -> None:
    """Raise SupervisorError if the API could not listen on this port."""
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
    """Return the seconds to wait before a restart, by the number of consecutive failures."""
    return RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]


def child_environment(settings: Settings, own_url: str) -> dict[str, str]:
    """Return this process's environment with the current settings, for a child process.

    `own_url` is the setting of the only database URL that the child gets; it cannot read the others
    from the folder of secrets either.
    """
    environment = dict(os.environ)
    environment.pop("ANNALS_SECRETS_DIR", None)
    for name, value in settings.model_dump(exclude={"secrets_dir"}).items():
        variable = f"ANNALS_{name.upper()}"
        if value is None or (name.endswith("_url") and name != own_url):
            environment.pop(variable, None)
        else:
            environment[variable] = str(value)
    if settings.log_level is None and not settings.access_log:
        environment["ANNALS_LOG_LEVEL"] = "warning"  # the output goes to a terminal
    environment[SUPERVISOR_PID_VARIABLE] = str(os.getpid())
    environment["PYTHONPATH"] = str(REPOSITORY)
    return environment


def is_healthy(settings: Settings) -> bool:
    """Return whether GET /livez answers 200 within HEALTH_REQUEST_TIMEOUT_S seconds."""
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
def _supervisor_lock(home: Path, url: str) -> Iterator[None]:
    """Hold the home's lock, which only one supervisor can have."""
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


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"
