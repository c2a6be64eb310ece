"""The embedded PostgreSQL server of a home folder: creating, starting and stopping it.

It is as durable as an installed server: fsync stays on and is checked at every start. It listens on
127.0.0.1 only, requires a generated password, and its data survives kill -9 of the server and of
the process that started it.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from eventlog.retries import poll_until
from runtime.home import AlreadyHeldError, HomeLock, read_json, write_private
from server.disk import RESERVE_BYTES, DiskReserve, free_bytes
from server.postgres.account import AccountError, server_account, server_folder
from server.postgres.binaries import BinariesError, extract_binaries, major_version
from server.postgres.processes import (
    POLL_INTERVAL_S,
    EmbeddedPostgresError,
    end_with_parent,
    is_alive,
    read_lines,
    serves,
    stop_leftover,
    stop_process,
    wait_for_backends,
)
from server.postgres.roles import ROLES, prepare_roles_and_database
from server.postgres.tuning import INITDB_ARGUMENTS, LOOPBACK, SERVER_SETTINGS, SUPERUSER

PASSWORD_BYTES = 24

NEW_DATA_MIN_BYTES = 1024**3
"""Free bytes that a new data folder needs. A start with existing data needs none."""
START_WAIT_MAX_S = 300.0  # includes crash recovery
PORT_ATTEMPTS_MAX = 3

# postmaster.pid, by line: process, data folder, start, port, sockets, address, memory key, status.
PID_LINE = 0
STATUS_LINE = 7
# Larger than any process id on Linux or macOS.
UNUSED_PID = 2**22 + 1


class AlreadyRunningError(EmbeddedPostgresError):
    """Another process runs the server of this home; the message names its id and address."""


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    host: str
    port: int
    superuser_url: str
    pid: int
    data: Path
    programs: Path
    """Folder of pg_dump, pg_basebackup and others; they need `environment`."""
    environment: dict[str, str]
    passwords: dict[str, str]

    def url(self, role: str, database: str) -> str:
        """Return the connection URL of a role in `passwords`."""
        return f"postgresql://{role}:{self.passwords[role]}@{self.host}:{self.port}/{database}"


@dataclass(frozen=True)
class DatabaseUrls:
    """One URL for each role: owner of the tables, API, projector and sender."""

    owner: str
    app: str
    projector: str
    sender: str


class EmbeddedPostgres:
    """The server of one home folder.

    home: the folder for data and programs, created if missing; for root, `server_folder` in
    server/postgres/account.py may choose another folder.
    binaries: a folder for programs that several homes share; each home has its own by default.
    """

    def __init__(self, home: Path, binaries: Path | None = None) -> None:
        self._home = home.absolute()
        self._shared_binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: HomeLock | None = None
        self._cluster: Cluster | None = None

    def start(self) -> Cluster:
        """Create the server if it is missing, start it, and return once it accepts connections.

        A second start of the same object returns the same server. A server left running by a killed
        process is stopped first. Raises EmbeddedPostgresError.
        """
        if self._cluster is not None and self.is_running():
            return self._cluster
        try:
            folder = server_folder(self._home)
            self._take_lock(folder)
            self._cluster = self._start_in(folder)
        except (AccountError, BinariesError) as error:
            self.stop()
            raise EmbeddedPostgresError(str(error)) from error
        except OSError as error:
            self.stop()
            raise EmbeddedPostgresError(_describe_file_error(error, self._home)) from error
        except BaseException:
            self.stop()
            raise
        return self._cluster

    def stop(self) -> None:
        """Stop the server if it is running: open transactions are rolled back, commits are on disk.

        Takes at most STOP_WAIT_MAX_S + 2 * ABORT_WAIT_MAX_S seconds.
        """
        self._cluster = None
        try:
            if self._process is not None:
                stop_process(self._process)
                self._process = None
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def is_running(self) -> bool:
        """Whether the server process that was started here is running."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _take_lock(self, folder: Path) -> None:
        if self._lock is not None:
            return
        lock = HomeLock(folder / "lock")
        try:
            lock.acquire()
        except AlreadyHeldError as error:
            raise AlreadyRunningError(
                f"PostgreSQL in {self._home} is {error}: stop that one or choose another home."
            ) from error
        self._lock = lock

    def _start_in(self, folder: Path) -> Cluster:
        _make_room(folder)
        installation = extract_binaries(self._shared_binaries or folder)
        passwords = _load_passwords(self._home, folder / "data")
        server = _ServerFolder(folder, installation, passwords)
        server.initialise_data()
        server.clear_leftovers()
        for _ in range(PORT_ATTEMPTS_MAX):
            port = _free_port(folder / "port.txt")
            self._process = server.launch(port)
            if server.wait_until_ready(self._process):
                break
        else:
            raise EmbeddedPostgresError(
                f"PostgreSQL found no free port on {LOOPBACK}: see {server.start_log}."
            )
        (folder / "port.txt").write_text(f"{port}\n", encoding="ascii")
        cluster = server.describe(self._process.pid, port)
        _require_durable(cluster)
        if self._lock is not None:
            self._lock.announce(f"{LOOPBACK}:{port}")
        return cluster


class _ServerFolder:
    """The steps of starting the server in one folder with one installation."""

    def __init__(self, folder: Path, installation: Path, passwords: dict[str, str]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.logs = folder / "log"
        self.start_log = folder / "start.log"
        self.installation = installation
        self.passwords = passwords
        self.account = server_account(self.data)
        self._log_sizes_bytes: dict[Path, int] = {}
        self.environment = program_environment(installation, folder)

    def initialise_data(self) -> None:
        """Run initdb unless the data folder exists, replacing what an interrupted run left."""
        if self.data.exists():
            self._require_same_major()
            return
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.folder / "initdb.password"
        try:
            write_private(password_file, self.passwords[SUPERUSER])
            self.account.take_ownership(password_file)
            self._run("initdb", *INITDB_ARGUMENTS, f"--pwfile={password_file}", "-D", unfinished)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(self.data)

    def clear_leftovers(self) -> None:
        """Stop a server that still serves the data, and neutralise a stale postmaster.pid."""
        pid_file = self.data / "postmaster.pid"
        lines = read_lines(pid_file)
        if not lines or not lines[PID_LINE].strip().isdigit():
            return
        pid = int(lines[PID_LINE])
        if serves(pid, self.data):
            stop_leftover(pid, self.data)
        elif is_alive(pid):
            # Another program has this process id now, and PostgreSQL would take it for a server.
            # The other lines stay: PostgreSQL needs them to find backends that are still running.
            pid_file.write_text("\n".join([str(UNUSED_PID), *lines[1:]]) + "\n", encoding="ascii")
        wait_for_backends(self.data)

    def launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start the postmaster and return at once; its first output goes to `start_log`."""
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.account.take_ownership(self.logs)
        self._log_sizes_bytes = {path: path.stat().st_size for path in self.logs.iterdir()}
        settings = SERVER_SETTINGS | {"port": str(port), "log_directory": str(self.logs)}
        command = [str(self.installation / "bin" / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # The server ends when this process is killed. The kernel ties that to the forking thread,
        # and a preexec_fn is safe only in a process with a single thread.
        is_single_threaded = threading.active_count() == 1
        with self.start_log.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd="/",
                umask=0o077,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the server
                preexec_fn=end_with_parent if is_single_threaded else None,
                **self._user(),
            )

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Return True once connections are accepted, False if the port was taken meanwhile.

        Raises EmbeddedPostgresError if the server ends for another reason or takes too long.
        """

        def has_started_or_ended() -> bool:
            return process.poll() is not None or self._accepts_connections(process.pid)

        if not poll_until(has_started_or_ended, START_WAIT_MAX_S, POLL_INTERVAL_S):
            stop_process(process)
            raise EmbeddedPostgresError(
                f"PostgreSQL did not start within {START_WAIT_MAX_S:.0f} s: see {self.logs}."
            )
        if process.poll() is None:
            return True
        output = self._read_output_since_launch()
        if "Address already in use" in output:
            return False
        raise EmbeddedPostgresError(self._describe_failure("start", output))

    def _accepts_connections(self, pid: int) -> bool:
        lines = read_lines(self.data / "postmaster.pid")
        return (
            len(lines) > STATUS_LINE
            and lines[PID_LINE].strip() == str(pid)
            and lines[STATUS_LINE].strip() == "ready"
        )

    def _read_output_since_launch(self) -> str:
        """Return what the server, which has ended, wrote to `start_log` and to its log files."""
        wait_for_backends(self.data)  # the logging collector still writes the last lines
        output = [self.start_log.read_bytes()]
        for path in sorted(self.logs.iterdir()):
            content = path.read_bytes()
            before_bytes = self._log_sizes_bytes.get(path, 0)
            output.append(content[before_bytes:] if before_bytes <= len(content) else content)
        return b"\n".join(output).decode("utf-8", errors="replace")

    def describe(self, pid: int, port: int) -> Cluster:
        return Cluster(
            host=LOOPBACK,
            port=port,
            superuser_url=(
                f"postgresql://{SUPERUSER}:{self.passwords[SUPERUSER]}@{LOOPBACK}:{port}/postgres"
            ),
            pid=pid,
            data=self.data,
            programs=self.installation / "bin",
            environment=self.environment,
            passwords=self.passwords,
        )

    def _run(self, program: str, *arguments: object) -> None:
        result = subprocess.run(
            [str(self.installation / "bin" / program), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd="/",
            umask=0o077,
            check=False,
            **self._user(),
        )
        if result.returncode != 0:
            raise EmbeddedPostgresError(self._describe_failure(program, result.stderr))

    def _user(self) -> dict[str, Any]:
        return self.account.popen_arguments()

    def _describe_failure(self, step: str, output: str) -> str:
        errors = re.findall(r"(?:FATAL|PANIC|[Ee]rror):\s*(.+)", output)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        reason = (errors or lines or ["without a message"])[-1].rstrip(".")
        if "error while loading shared libraries" in output:
            library = output.split("shared libraries:")[1].split(":")[0].strip()
            return (
                f"PostgreSQL needs the system library {library}, which is missing: install it,"
                " or set ANNALS_OWNER_URL, ANNALS_APP_URL and ANNALS_PROJECTOR_URL."
            )
        return f"PostgreSQL failed at {step} in {self.folder} ({reason}): see {self.logs}."

    def _require_same_major(self) -> None:
        version_file = self.data / "PG_VERSION"
        written_by = "".join(read_lines(version_file)).strip()
        ours = major_version(self.installation)
        if written_by != ours:
            raise EmbeddedPostgresError(
                f"The data in {self.data} was written by PostgreSQL {written_by or '(unknown)'} and"
                f" this Annals brings {ours}: dump it with that version, or choose another home."
            )


def program_environment(installation: Path, folder: Path) -> dict[str, str]:
    """Return the environment for the programs of an installation; `folder` is their HOME."""
    libraries = str(installation / "lib")
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LD_LIBRARY_PATH": libraries,
        "DYLD_LIBRARY_PATH": libraries,
        "LC_ALL": "C",
    }


def prepare_database(cluster: Cluster, name: str, template: str = "template0") -> DatabaseUrls:
    """Create the database and its roles if they are missing, and return their URLs.

    Calling it again changes nothing. A `template` other than template0 is copied with its tables
    and must have no open connections. server/postgres/roles.py has the rights of each role. Raises
    psycopg.Error.
    """
    prepare_roles_and_database(cluster.superuser_url, name, cluster.passwords, template)
    return _urls(cluster.passwords, cluster.port, name)


def urls_of_running(home: Path, name: str) -> DatabaseUrls:
    """Return the URLs of a database whose server another process runs in this home.

    Raises EmbeddedPostgresError if the home's files cannot be read.
    """
    return _urls(*_read_passwords_and_port(home), name)


def superuser_url_of_running(home: Path, name: str) -> str:
    """Return the superuser's URL of a database whose server runs in this home.

    Raises EmbeddedPostgresError if the home's files cannot be read.
    """
    passwords, port = _read_passwords_and_port(home)
    return f"postgresql://{SUPERUSER}:{passwords[SUPERUSER]}@{LOOPBACK}:{port}/{name}"


def _read_passwords_and_port(home: Path) -> tuple[dict[str, str], int]:
    try:
        folder = server_folder(home)
        passwords = _load_passwords(home, folder / "data")
        return passwords, int((folder / "port.txt").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise EmbeddedPostgresError(
            f"The files of the server in {home} cannot be read ({error}): run this as the user who"
            " started it, and once it is running."
        ) from error


def _urls(passwords: dict[str, str], port: int, database: str) -> DatabaseUrls:
    owner, app, projector, sender = (
        f"postgresql://{role}:{passwords[role]}@{LOOPBACK}:{port}/{database}" for role in ROLES
    )
    return DatabaseUrls(owner, app, projector, sender)


def _load_passwords(home: Path, data: Path) -> dict[str, str]:
    """Return the passwords of this home, generated at the first start, by role."""
    path = home / "passwords.json"
    passwords: dict[str, str] = read_json(path)
    roles = (SUPERUSER, *ROLES)
    if data.exists() and SUPERUSER not in passwords:
        raise EmbeddedPostgresError(
            f"{path}, the passwords of the server in {data}, is missing: restore it from a copy."
        )
    if missing := [role for role in roles if role not in passwords]:
        passwords |= {role: secrets.token_urlsafe(PASSWORD_BYTES) for role in missing}
        write_private(path, json.dumps(passwords, indent=2))
    return passwords


def _make_room(folder: Path) -> None:
    """Release the reserve of existing data on a full disk; refuse to create data without room."""
    found_bytes = free_bytes(folder)
    if (folder / "data").exists():
        if found_bytes < RESERVE_BYTES:
            DiskReserve(folder).release()
    elif found_bytes < NEW_DATA_MIN_BYTES:
        raise EmbeddedPostgresError(
            f"{folder} has {found_bytes // 1024**2} MiB of disk left and a new server needs"
            f" {NEW_DATA_MIN_BYTES // 1024**2} MiB: free some, or choose another home."
        )


def _require_durable(cluster: Cluster) -> None:
    try:
        with psycopg.connect(cluster.superuser_url) as connection:
            row = connection.execute("SHOW fsync").fetchone()
    except psycopg.OperationalError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL in {cluster.data} refuses the password: restore its passwords.json from"
            " a copy."
        ) from error
    if row != ("on",):
        raise EmbeddedPostgresError(
            f"PostgreSQL in {cluster.data} runs with fsync off and would lose data in a power cut:"
            " remove the setting from postgresql.auto.conf."
        )


def _free_port(record: Path) -> int:
    """Return the port of the last start if it is free, else one that the system picks."""
    text = "".join(read_lines(record)).strip()
    for port in ([int(text)] if text.isdigit() else []) + [0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError, OverflowError):
                probe.bind((LOOPBACK, port))
                return int(probe.getsockname()[1])
    raise EmbeddedPostgresError(
        f"{LOOPBACK} has no free port for PostgreSQL: stop some of the programs that listen."
    )


def _describe_file_error(error: OSError, home: Path) -> str:
    where = error.filename or home
    reason = (error.strerror or str(error)).lower()
    return f"{where} cannot be used ({reason}): give it to this user, or choose another home."
