"""A PostgreSQL server of Annals' own, kept in a folder: made, started, watched and stopped here.

Durable like any other: fsync stays on and is checked at every start. It listens on 127.0.0.1 only,
wants a generated password from everybody, and survives kill -9 of itself and of its starter.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from runtime.home import AlreadyHeldError, HomeLock, read_json, write_private
from server.postgres.account import AccountError, server_account, server_folder
from server.postgres.binaries import BinariesError, extract_binaries, major_version
from server.postgres.processes import (
    POLL_INTERVAL_S,
    EmbeddedPostgresError,
    follow_starter,
    is_alive,
    lines_of,
    serves,
    stop_leftover,
    stop_process,
    wait_for_backends,
)
from server.postgres.roles import ROLES, prepare_roles_and_database
from server.postgres.tuning import INITDB_ARGUMENTS, LOOPBACK, SERVER_SETTINGS, SUPERUSER

PASSWORD_BYTES = 24

DISK_FREE_MIN_BYTES = 1024**3
START_WAIT_MAX_S = 300.0  # replaying the log after a crash counts into it
PORT_ATTEMPTS_MAX = 3

# postmaster.pid, by line: process, data folder, start, port, sockets, address, memory key, status.
PID_LINE = 0
STATUS_LINE = 7
# Larger than any process number on Linux or macOS.
NO_PROCESS = 2**22 + 1


class AlreadyRunningError(EmbeddedPostgresError):
    """Another process runs the server of this home; the message says which and where."""


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    host: str
    port: int
    superuser_url: str
    pid: int
    data: Path
    programs: Path
    """Folder of pg_dump, pg_basebackup and the like; they need `environment`."""
    environment: dict[str, str]
    passwords: dict[str, str]

    def url(self, role: str, database: str) -> str:
        """The connection URL of a role that has a password here."""
        return f"postgresql://{role}:{self.passwords[role]}@{self.host}:{self.port}/{database}"


@dataclass(frozen=True)
class DatabaseUrls:
    """One URL for each role: who owns the tables, answers requests, projects, and sends."""

    owner: str
    app: str
    projector: str
    sender: str


class EmbeddedPostgres:
    """The server that belongs to one home folder.

    home: the folder for everything, created if missing. For root it may have to be elsewhere, see
    postgres_account.server_folder.
    binaries: a folder for the programs when several homes are to share them; by default each home
    has its own.
    """

    def __init__(self, home: Path, binaries: Path | None = None) -> None:
        self._home = home.absolute()
        self._shared_binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: HomeLock | None = None
        self._cluster: Cluster | None = None

    def start(self) -> Cluster:
        """Make the server if it is not there, start it, and return once it answers.

        A second start of the same object returns the same server. A server that an earlier, killed
        process left behind is stopped first. Raises EmbeddedPostgresError.
        """
        if self._cluster is not None and self.is_running():
            return self._cluster
        try:
            folder = server_folder(self._home)
            self._take_lock(folder)
            self._cluster = self._start_in(folder)
        except (AccountError, BinariesError) as error:
            self._let_go()
            raise EmbeddedPostgresError(str(error)) from error
        except OSError as error:
            self._let_go()
            raise EmbeddedPostgresError(_about_file(error, self._home)) from error
        except BaseException:
            self._let_go()
            raise
        return self._cluster

    def stop(self) -> None:
        """Stop the server: open transactions are rolled back, everything committed is on disk.

        Takes at most STOP_WAIT_MAX_S + ABORT_WAIT_MAX_S seconds. Does nothing when not running.
        """
        self._let_go()

    def is_running(self) -> bool:
        """Whether the server process started here is alive."""
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

    def _let_go(self) -> None:
        self._cluster = None
        try:
            if self._process is not None:
                stop_process(self._process)
                self._process = None
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _start_in(self, folder: Path) -> Cluster:
        _require_free_disk(folder)
        installation = extract_binaries(self._shared_binaries or folder)
        server = _Server(folder, installation, _passwords(self._home, folder / "data"))
        server.make_data()
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


class _Server:
    """The steps of a start, in one folder and with one installation."""

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

    def make_data(self) -> None:
        """Run initdb unless there is data; one that was interrupted leaves nothing behind."""
        if self.data.exists():
            self._require_same_major()
            return
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.folder / "initdb.password"
        try:
            write_private(password_file, self.passwords[SUPERUSER])
            self.account.give(password_file)
            self._run("initdb", *INITDB_ARGUMENTS, f"--pwfile={password_file}", "-D", unfinished)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(self.data)

    def clear_leftovers(self) -> None:
        """Deal with postmaster.pid: stop a server that is still ours, disarm one that is stale."""
        pid_file = self.data / "postmaster.pid"
        lines = lines_of(pid_file)
        if not lines or not lines[PID_LINE].strip().isdigit():
            return
        pid = int(lines[PID_LINE])
        if serves(pid, self.data):
            stop_leftover(pid, self.data)
        elif is_alive(pid):
            # The number was given to another program since. PostgreSQL would take that for a
            # server; the rest of the file it still needs, to find backends that linger.
            pid_file.write_text("\n".join([str(NO_PROCESS), *lines[1:]]) + "\n", encoding="ascii")
        wait_for_backends(self.data)

    def launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start the postmaster and return at once; its first words go to `start_log`."""
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.account.give(self.logs)
        self._log_sizes_bytes = {path: path.stat().st_size for path in self.logs.iterdir()}
        settings = SERVER_SETTINGS | {"port": str(port), "log_directory": str(self.logs)}
        command = [str(self.installation / "bin" / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # A killed starter takes its server along. The kernel ties that to the thread that forks,
        # and Python runs code between fork and exec safely only while there is no other thread.
        is_alone = threading.active_count() == 1
        with self.start_log.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd="/",
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for the starter, which then stops us in order
                preexec_fn=follow_starter if is_alone else None,
                **self._user(),
            )

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """True once connections are accepted, False where the port was taken meanwhile."""
        deadline = time.monotonic() + START_WAIT_MAX_S
        while process.poll() is None:
            lines = lines_of(self.data / "postmaster.pid")
            if (
                len(lines) > STATUS_LINE
                and lines[PID_LINE].strip() == str(process.pid)
                and lines[STATUS_LINE].strip() == "ready"
            ):
                return True
            if time.monotonic() > deadline:
                stop_process(process)
                raise EmbeddedPostgresError(
                    f"PostgreSQL did not come up within {START_WAIT_MAX_S:.0f} s: see {self.logs}."
                )
            time.sleep(POLL_INTERVAL_S)
        said = self._said_since_launch()
        if "Address already in use" in said:
            return False
        raise EmbeddedPostgresError(self._about_failure("start", said))

    def _said_since_launch(self) -> str:
        """What the server, which has ended, wrote before its log was open, and after."""
        wait_for_backends(self.data)  # one of them still writes the last lines to the log
        said = [self.start_log.read_bytes()]
        for path in sorted(self.logs.iterdir()):
            content = path.read_bytes()
            before_bytes = self._log_sizes_bytes.get(path, 0)
            said.append(content[before_bytes:] if before_bytes <= len(content) else content)
        return b"\n".join(said).decode("utf-8", errors="replace")

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
            raise EmbeddedPostgresError(self._about_failure(program, result.stderr))

    def _user(self) -> dict[str, Any]:
        return self.account.popen_arguments()

    def _about_failure(self, step: str, said: str) -> str:
        telling = re.findall(r"(?:FATAL|PANIC|[Ee]rror):\s*(.+)", said)
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        reason = (telling or lines or ["it said nothing"])[-1].rstrip(".")
        if "error while loading shared libraries" in said:
            library = said.split("shared libraries:")[1].split(":")[0].strip()
            return (
                f"PostgreSQL needs the system library {library}, which is missing here: install it,"
                " or set ANNALS_OWNER_URL, ANNALS_APP_URL and ANNALS_PROJECTOR_URL."
            )
        return f"PostgreSQL failed at {step} in {self.folder} ({reason}): see {self.logs}."

    def _require_same_major(self) -> None:
        version_file = self.data / "PG_VERSION"
        written_by = "".join(lines_of(version_file)).strip()
        ours = major_version(self.installation)
        if written_by != ours:
            raise EmbeddedPostgresError(
                f"The data in {self.data} was written by PostgreSQL {written_by or '(unknown)'} and"
                f" this Annals brings {ours}: dump it with that version, or choose another home."
            )


def program_environment(installation: Path, folder: Path) -> dict[str, str]:
    """What the programs of an extracted installation need; `folder` is their HOME."""
    libraries = str(installation / "lib")
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LD_LIBRARY_PATH": libraries,
        "DYLD_LIBRARY_PATH": libraries,
        "LC_ALL": "C",
    }


def prepare_database(cluster: Cluster, name: str, template: str = "template0") -> DatabaseUrls:
    """Make the database and its roles as far as they are missing, and return their URLs.

    Calling it again changes nothing. A `template` other than template0 is copied with its tables,
    as long as nobody is connected to it. See roles for who may do what. Raises psycopg.Error.
    """
    prepare_roles_and_database(cluster.superuser_url, name, cluster.passwords, template)
    return _urls(cluster.passwords, cluster.port, name)


def urls_of_running(home: Path, name: str) -> DatabaseUrls:
    """The URLs of a database whose server another process runs in this home.

    Raises EmbeddedPostgresError where the home's files cannot be read.
    """
    return _urls(*_running(home), name)


def superuser_url_of_running(home: Path, name: str) -> str:
    """The URL of the superuser for a database of a server that runs in this home.

    Raises EmbeddedPostgresError where the home's files cannot be read.
    """
    passwords, port = _running(home)
    return f"postgresql://{SUPERUSER}:{passwords[SUPERUSER]}@{LOOPBACK}:{port}/{name}"


def _running(home: Path) -> tuple[dict[str, str], int]:
    """Passwords and port of the server of this home."""
    try:
        folder = server_folder(home)
        passwords = _passwords(home, folder / "data")
        return passwords, int((folder / "port.txt").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise EmbeddedPostgresError(
            f"The files of the server in {home} cannot be read ({error}): ask as the user who"
            " started it, and once it is up."
        ) from error


def _urls(passwords: dict[str, str], port: int, database: str) -> DatabaseUrls:
    owner, app, projector, sender = (
        f"postgresql://{role}:{passwords[role]}@{LOOPBACK}:{port}/{database}" for role in ROLES
    )
    return DatabaseUrls(owner, app, projector, sender)


def _passwords(home: Path, data: Path) -> dict[str, str]:
    """The passwords of this home, generated at the first start and private ever after."""
    path = home / "passwords.json"
    passwords: dict[str, str] = read_json(path)
    roles = (SUPERUSER, *ROLES)
    if data.exists() and SUPERUSER not in passwords:
        raise EmbeddedPostgresError(
            f"{path}, the passwords of the server in {data}, is missing: put it back from a copy."
        )
    if missing := [role for role in roles if role not in passwords]:
        passwords |= {role: secrets.token_urlsafe(PASSWORD_BYTES) for role in missing}
        write_private(path, json.dumps(passwords, indent=2))
    return passwords


def _require_free_disk(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < DISK_FREE_MIN_BYTES:
        raise EmbeddedPostgresError(
            f"{folder} has {free_bytes // 1024**2} MiB of disk left and PostgreSQL needs"
            f" {DISK_FREE_MIN_BYTES // 1024**2} MiB: free some, or choose another home."
        )


def _require_durable(cluster: Cluster) -> None:
    try:
        with psycopg.connect(cluster.superuser_url) as connection:
            row = connection.execute("SHOW fsync").fetchone()
    except psycopg.OperationalError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL in {cluster.data} refuses our password: put the passwords.json that"
            " belongs to it back from a copy."
        ) from error
    if row != ("on",):
        raise EmbeddedPostgresError(
            f"PostgreSQL in {cluster.data} runs with fsync off and would lose data in a power cut:"
            " remove the setting from postgresql.auto.conf."
        )


def _free_port(record: Path) -> int:
    """The port of the last start if nobody has it now, else one the system picks."""
    text = "".join(lines_of(record)).strip()
    for port in ([int(text)] if text.isdigit() else []) + [0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError, OverflowError):
                probe.bind((LOOPBACK, port))
                return int(probe.getsockname()[1])
    raise EmbeddedPostgresError(
        f"No free port is left on {LOOPBACK} for PostgreSQL: stop some of the programs that listen."
    )


def _about_file(error: OSError, home: Path) -> str:
    where = error.filename or home
    reason = (error.strerror or str(error)).lower()
    return f"{where} cannot be used ({reason}): give it to this user, or choose another home."
