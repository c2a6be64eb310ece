"""The embedded PostgreSQL: durability, access, and errors when it cannot start."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from runtime.settings import REPOSITORY
from server.postgres import account as postgres_account
from server.postgres import embedded
from server.postgres import tuning as postgres_tuning
from server.postgres.binaries import extract_binaries
from server.postgres.embedded import (
    AlreadyRunningError,
    Cluster,
    EmbeddedPostgres,
    prepare_database,
    urls_of_running,
)
from server.postgres.processes import EmbeddedPostgresError
from tests.support.postgres_server import reachable_folder
from tests.support.waiting import wait_until

as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user, which needs root")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

GONE_TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def binaries() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def used_home(binaries: Path) -> Iterator[Path]:
    with reachable_folder() as folder:
        with EmbeddedPostgres(folder / "home", binaries):
            pass
        yield folder / "home"


@pytest.fixture
def new_home() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder / "home"


@pytest.fixture
def home(used_home: Path, new_home: Path) -> Path:
    """A home that was started before: copying one is faster than initdb."""
    subprocess.run(["cp", "-a", str(used_home), str(new_home)], check=True)
    return new_home


def write_row(cluster: Cluster) -> None:
    with psycopg.connect(cluster.superuser_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
        connection.execute("INSERT INTO kept VALUES (7)")


def read_rows(cluster: Cluster) -> list[int]:
    with psycopg.connect(cluster.superuser_url) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM kept")]


def setting(cluster: Cluster, name: str) -> str:
    with psycopg.connect(cluster.superuser_url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


STARTER = """
import signal, sys, threading
from pathlib import Path
from server.postgres.embedded import EmbeddedPostgres
home, binaries, with_thread = sys.argv[1:]
if with_thread == "yes":  # then the server does not end with its starter
    threading.Thread(target=threading.Event().wait, daemon=True).start()
cluster = EmbeddedPostgres(Path(home), Path(binaries)).start()
print(cluster.pid, cluster.superuser_url, flush=True)
signal.pause()
"""


def start_elsewhere(
    home: Path, binaries: Path, *, with_thread: bool = False
) -> tuple[subprocess.Popen[str], int, str]:
    """Start the server in another process; return that process, the server's id and its URL."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home), str(binaries), "yes" if with_thread else "no"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert starter.stdout is not None
    pid, url = starter.stdout.readline().split()
    return starter, int(pid), url


def kill(starter: subprocess.Popen[str]) -> None:
    starter.kill()
    starter.communicate()


def processes_in(data: Path) -> list[int]:
    """Return the ids of the processes whose working directory is this data folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")) == data:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_data_survives_a_stop(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        write_row(cluster)
        port = cluster.port
    with EmbeddedPostgres(home, binaries) as cluster:
        assert read_rows(cluster) == [7]
        assert cluster.port == port


@linux_only
def test_data_survives_kill_9_of_all_processes(home: Path, binaries: Path) -> None:
    starter, pid, url = start_elsewhere(home, binaries)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    # SIGSTOP first, so that the server cannot shut down cleanly between the kills.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in {pid, *processes_in(home / "postgres" / "data")}:
            with suppress(ProcessLookupError):  # a server process may end at any time
                os.kill(process, number)
    kill(starter)
    with EmbeddedPostgres(home, binaries) as cluster:
        assert read_rows(cluster) == [7]


@linux_only
def test_server_ends_when_its_starter_is_killed(home: Path, binaries: Path) -> None:
    starter, _, _ = start_elsewhere(home, binaries)
    kill(starter)
    wait_until(
        lambda: not processes_in(home / "postgres" / "data"),
        "all processes of the server are gone",
        timeout_s=GONE_TIMEOUT_S,
    )


def test_orphaned_server_is_replaced(home: Path, binaries: Path) -> None:
    starter, orphan, url = start_elsewhere(home, binaries, with_thread=True)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    kill(starter)
    os.kill(orphan, 0)  # it still runs
    with EmbeddedPostgres(home, binaries) as cluster:
        assert cluster.pid != orphan
        assert read_rows(cluster) == [7]


def test_pid_file_that_names_another_program_is_stale(home: Path, binaries: Path) -> None:
    server = EmbeddedPostgres(home, binaries)
    data = server.start().data
    server.stop()
    account = postgres_account.server_account(data)
    other_program = subprocess.Popen(
        ["sleep", "60"],
        user=account.uid if account.must_switch else None,
    )
    try:
        (data / "postmaster.pid").write_text(f"{other_program.pid}\n{data}\n", encoding="ascii")
        with server as cluster:
            assert cluster.pid != other_program.pid
        assert other_program.poll() is None
    finally:
        other_program.kill()
        other_program.wait()


def test_interrupted_first_start_is_repeated(new_home: Path, binaries: Path) -> None:
    folder = postgres_account.server_folder(new_home)
    (folder / "data.new" / "base").mkdir(parents=True)
    with EmbeddedPostgres(new_home, binaries) as cluster:
        write_row(cluster)


def test_writes_are_durable(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        assert setting(cluster, "fsync") == "on"
        assert setting(cluster, "synchronous_commit") == "on"
        assert setting(cluster, "full_page_writes") == "on"


def test_server_without_fsync_is_refused(
    home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_tuning.SERVER_SETTINGS, "fsync", "off")
    with pytest.raises(EmbeddedPostgresError, match="runs with fsync off"):
        EmbeddedPostgres(home, binaries).start()


def test_server_listens_on_loopback_and_requires_a_password(cluster: Cluster) -> None:
    assert setting(cluster, "listen_addresses") == "127.0.0.1"
    assert setting(cluster, "unix_socket_directories") == ""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=cluster.host, port=cluster.port, user="postgres", password="wrong")


def test_passwords_are_private(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
        assert len(set(json.loads((home / "passwords.json").read_text()).values())) == 5


def test_second_start_of_a_home_names_the_running_process(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        message = f"already running as process {os.getpid()} at 127.0.0.1:{cluster.port}"
        with pytest.raises(AlreadyRunningError, match=message):
            EmbeddedPostgres(home, binaries).start()
        urls = urls_of_running(home, "postgres")
        assert f":{cluster.port}/postgres" in urls.owner


def test_taken_port_is_not_used(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        taken = cluster.port
    with (
        socket.create_server((postgres_tuning.LOOPBACK, taken)),
        EmbeddedPostgres(home, binaries) as cluster,
    ):
        assert cluster.port != taken


def test_port_taken_at_the_last_moment_is_retried(
    home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((postgres_tuning.LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        picks = iter([taken, 0])
        real = embedded._free_port
        monkeypatch.setattr(embedded, "_free_port", lambda record: next(picks) or real(record))
        with EmbeddedPostgres(home, binaries) as cluster:
            assert cluster.port != taken


def test_lack_of_a_free_port_is_reported(
    home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((postgres_tuning.LOOPBACK, 0)) as other:
        monkeypatch.setattr(embedded, "_free_port", lambda _: other.getsockname()[1])
        with pytest.raises(EmbeddedPostgresError, match="found no free port"):
            EmbeddedPostgres(home, binaries).start()


def test_data_of_another_major_version_is_refused(new_home: Path, binaries: Path) -> None:
    data = postgres_account.server_folder(new_home) / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    (new_home / "passwords.json").write_text('{"postgres": "secret"}', encoding="utf-8")
    with pytest.raises(EmbeddedPostgresError, match=r"written by PostgreSQL 15 .* brings 18"):
        EmbeddedPostgres(new_home, binaries).start()


def test_missing_passwords_file_is_named(new_home: Path, binaries: Path) -> None:
    (postgres_account.server_folder(new_home) / "data").mkdir()
    with pytest.raises(EmbeddedPostgresError, match=r"passwords\.json.* is missing"):
        EmbeddedPostgres(new_home, binaries).start()


def test_full_disk_is_refused_before_anything_is_written(
    new_home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 1024**2))
    with pytest.raises(EmbeddedPostgresError, match=r"5 MiB .* needs 1024 MiB"):
        EmbeddedPostgres(new_home, binaries).start()
    assert not (new_home / "passwords.json").exists()


def test_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way", encoding="utf-8")
    with pytest.raises(EmbeddedPostgresError, match="home cannot be used"):
        EmbeddedPostgres(tmp_path / "home").start()


def test_contrib_modules_handle_accented_letters(cluster: Cluster) -> None:
    prepare_database(cluster, "letters")
    with psycopg.connect(cluster.url("annals_owner", "letters")) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
        connection.execute("CREATE EXTENSION btree_gin")
        connection.execute("CREATE EXTENSION pgcrypto")
        row = connection.execute(
            "SELECT lower('ÉÀÜ'), cardinality(show_trgm('éà')), 'z' < 'é'"
        ).fetchone()
    assert row == ("éàü", 3, True)


def test_second_preparation_of_a_database_changes_nothing(cluster: Cluster) -> None:
    first = prepare_database(cluster, "twice")
    with psycopg.connect(first.owner) as connection:
        connection.execute("CREATE TABLE kept (number int)")
    assert prepare_database(cluster, "twice") == first
    with psycopg.connect(first.owner) as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == []


def test_template_is_copied_with_its_tables(cluster: Cluster) -> None:
    with psycopg.connect(prepare_database(cluster, "original").owner) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    copy = prepare_database(cluster, "copied", template="original")
    with psycopg.connect(copy.owner) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_app_and_projector_own_nothing(cluster: Cluster) -> None:
    urls = prepare_database(cluster, "rights")
    for url in (urls.app, urls.projector):
        for statement in ("CREATE TABLE mine (n int)", "CREATE TEMPORARY TABLE mine (n int)"):
            with (
                psycopg.connect(url) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute(statement.encode())


@pytest.mark.parametrize("program", ["pg_dump", "pg_basebackup", "initdb", "postgres"])
def test_bundled_programs_run(cluster: Cluster, program: str) -> None:
    result = subprocess.run(
        [str(cluster.programs / program), "--version"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "18." in result.stdout


def test_damaged_programs_are_extracted_again(tmp_path: Path) -> None:
    folder = extract_binaries(tmp_path)
    (folder / "bin" / "initdb").write_bytes(b"")
    assert extract_binaries(tmp_path) == folder
    assert (folder / "bin" / "initdb").stat().st_size > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


@as_root_only
def test_server_started_by_root_runs_as_another_user(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        assert cluster.data.stat().st_uid != 0
        assert Path(f"/proc/{cluster.pid}").stat().st_uid == cluster.data.stat().st_uid


@as_root_only
def test_data_of_a_private_home_of_root_is_kept_outside(
    tmp_path: Path, new_home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_account, "OUTSIDE_ROOT", new_home)
    tmp_path.chmod(0o700)
    private_home = tmp_path / "home"
    for _ in range(2):
        with EmbeddedPostgres(private_home, binaries) as cluster:
            write_row(cluster)
            assert cluster.data.is_relative_to(new_home)
    record = (private_home / postgres_account.FOLDER_RECORD).read_text(encoding="utf-8")
    assert Path(record.strip()) == cluster.data.parent


AS_ORDINARY_USER = """
import os, pwd, sys
from pathlib import Path
user = pwd.getpwnam("nobody")
sys.path.insert(0, os.getcwd())
from server.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError, prepare_database
import encodings.ascii, encodings.idna, psycopg, psycopg_binary
os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
try:
    with EmbeddedPostgres(Path(sys.argv[1]), Path(sys.argv[2])) as cluster:
        urls = prepare_database(cluster, "annals")
        with psycopg.connect(urls.owner) as connection:
            print(connection.execute("SELECT 'it runs as ' || current_user").fetchone()[0])
except EmbeddedPostgresError as error:
    print(error)
"""


def as_ordinary_user(home: Path, binaries: Path) -> str:
    # Root loads the interpreter, because other users may lack access to its folder.
    result = subprocess.run(
        [sys.executable, "-c", AS_ORDINARY_USER, str(home), str(binaries)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


@as_root_only
def test_server_runs_as_an_ordinary_user(new_home: Path, binaries: Path) -> None:
    extract_binaries(binaries)
    user = pwd.getpwnam("nobody")
    new_home.mkdir(mode=0o700)
    os.chown(new_home, user.pw_uid, user.pw_gid)
    assert as_ordinary_user(new_home, binaries) == "it runs as annals_owner\n"
    assert (new_home / "passwords.json").stat().st_uid == user.pw_uid


@as_root_only
def test_home_of_another_user_is_refused(new_home: Path, binaries: Path) -> None:
    new_home.mkdir(mode=0o700)
    result = as_ordinary_user(new_home, binaries)
    assert result.endswith("give it to this user, or choose another home.\n")
    assert "permission denied" in result
