"""The embedded PostgreSQL: what it promises about data, and what it says when it cannot start."""

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
    """A home that was started before; copying one is quicker than initdb."""
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
if with_thread == "yes":  # then the server is not told to follow its starter
    threading.Thread(target=threading.Event().wait, daemon=True).start()
cluster = EmbeddedPostgres(Path(home), Path(binaries)).start()
print(cluster.pid, cluster.superuser_url, flush=True)
signal.pause()
"""


def start_elsewhere(
    home: Path, binaries: Path, *, with_thread: bool = False
) -> tuple[subprocess.Popen[str], int, str]:
    """Start the server in another process: that process, the server's id and its URL."""
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


def serving(data: Path) -> list[int]:
    """The processes that stand in a data folder."""
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
def test_data_survives_kill_9_of_everything(home: Path, binaries: Path) -> None:
    starter, pid, url = start_elsewhere(home, binaries)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    # SIGSTOP first: the server must not get to a clean shutdown between the blows.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in {pid, *serving(home / "postgres" / "data")}:
            os.kill(process, number)
    kill(starter)
    with EmbeddedPostgres(home, binaries) as cluster:
        assert read_rows(cluster) == [7]


@linux_only
def test_a_killed_starter_takes_its_server_along(home: Path, binaries: Path) -> None:
    starter, _, _ = start_elsewhere(home, binaries)
    kill(starter)
    wait_until(
        lambda: not serving(home / "postgres" / "data"),
        "all processes of the server are gone",
        timeout_s=GONE_TIMEOUT_S,
    )


def test_a_server_left_behind_is_replaced(home: Path, binaries: Path) -> None:
    starter, left_behind, url = start_elsewhere(home, binaries, with_thread=True)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    kill(starter)
    os.kill(left_behind, 0)  # still there
    with EmbeddedPostgres(home, binaries) as cluster:
        assert cluster.pid != left_behind
        assert read_rows(cluster) == [7]


def test_a_pid_file_that_names_a_stranger_is_stale(home: Path, binaries: Path) -> None:
    server = EmbeddedPostgres(home, binaries)
    data = server.start().data
    server.stop()
    account = postgres_account.server_account(data)
    stranger = subprocess.Popen(
        ["sleep", "60"],
        user=account.uid if account.switch else None,
    )
    try:
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n", encoding="ascii")
        with server as cluster:
            assert cluster.pid != stranger.pid
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_first_start_is_done_again(new_home: Path, binaries: Path) -> None:
    folder = postgres_account.server_folder(new_home)
    (folder / "data.new" / "base").mkdir(parents=True)
    with EmbeddedPostgres(new_home, binaries) as cluster:
        write_row(cluster)


def test_writes_are_durable(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        assert setting(cluster, "fsync") == "on"
        assert setting(cluster, "synchronous_commit") == "on"
        assert setting(cluster, "full_page_writes") == "on"


def test_a_server_without_fsync_is_refused(
    home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_tuning.SERVER_SETTINGS, "fsync", "off")
    with pytest.raises(EmbeddedPostgresError, match="runs with fsync off"):
        EmbeddedPostgres(home, binaries).start()


def test_it_listens_on_loopback_and_wants_a_password(cluster: Cluster) -> None:
    assert setting(cluster, "listen_addresses") == "127.0.0.1"
    assert setting(cluster, "unix_socket_directories") == ""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=cluster.host, port=cluster.port, user="postgres", password="wrong")


def test_passwords_are_private(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
        assert len(set(json.loads((home / "passwords.json").read_text()).values())) == 5


def test_the_second_start_of_a_home_learns_who_runs_it(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        who = f"already running as process {os.getpid()} at 127.0.0.1:{cluster.port}"
        with pytest.raises(AlreadyRunningError, match=who):
            EmbeddedPostgres(home, binaries).start()
        urls = urls_of_running(home, "postgres")
        assert f":{cluster.port}/postgres" in urls.owner


def test_a_taken_port_is_left_to_its_owner(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        taken = cluster.port
    with (
        socket.create_server((postgres_tuning.LOOPBACK, taken)),
        EmbeddedPostgres(home, binaries) as cluster,
    ):
        assert cluster.port != taken


def test_a_port_taken_in_the_last_moment_is_retried(
    home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((postgres_tuning.LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        picks = iter([taken, 0])
        real = embedded._free_port
        monkeypatch.setattr(embedded, "_free_port", lambda record: next(picks) or real(record))
        with EmbeddedPostgres(home, binaries) as cluster:
            assert cluster.port != taken


def test_no_free_port_is_one_sentence(
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


def test_lost_passwords_are_named(new_home: Path, binaries: Path) -> None:
    (postgres_account.server_folder(new_home) / "data").mkdir()
    with pytest.raises(EmbeddedPostgresError, match=r"passwords\.json.* is missing"):
        EmbeddedPostgres(new_home, binaries).start()


def test_a_full_disk_is_refused_before_anything_is_written(
    new_home: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 1024**2))
    with pytest.raises(EmbeddedPostgresError, match=r"5 MiB .* needs 1024 MiB"):
        EmbeddedPostgres(new_home, binaries).start()
    assert not (new_home / "passwords.json").exists()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way", encoding="utf-8")
    with pytest.raises(EmbeddedPostgresError, match="home cannot be used"):
        EmbeddedPostgres(tmp_path / "home").start()


def test_the_contrib_modules_know_letters_with_accents(cluster: Cluster) -> None:
    prepare_database(cluster, "letters")
    with psycopg.connect(cluster.url("annals_owner", "letters")) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
        connection.execute("CREATE EXTENSION btree_gin")
        connection.execute("CREATE EXTENSION pgcrypto")
        row = connection.execute(
            "SELECT lower('ÉÀÜ'), cardinality(show_trgm('éà')), 'z' < 'é'"
        ).fetchone()
    assert row == ("éàü", 3, True)


def test_preparing_twice_changes_nothing(cluster: Cluster) -> None:
    first = prepare_database(cluster, "twice")
    with psycopg.connect(first.owner) as connection:
        connection.execute("CREATE TABLE kept (number int)")
    assert prepare_database(cluster, "twice") == first
    with psycopg.connect(first.owner) as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == []


def test_a_template_is_copied_with_its_tables(cluster: Cluster) -> None:
    with psycopg.connect(prepare_database(cluster, "original").owner) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    copy = prepare_database(cluster, "copied", template="original")
    with psycopg.connect(copy.owner) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_app_and_projector_own_nothing(cluster: Cluster) -> None:
    urls = prepare_database(cluster, "rights")
    for url in (urls.app, urls.projector):
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TEMPORARY TABLE incoming (number int)")
        with (
            psycopg.connect(url) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("CREATE TABLE mine (number int)")


@pytest.mark.parametrize("program", ["pg_dump", "pg_basebackup", "initdb", "postgres"])
def test_the_programs_run(cluster: Cluster, program: str) -> None:
    answer = subprocess.run(
        [str(cluster.programs / program), "--version"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "18." in answer.stdout


def test_damaged_programs_are_extracted_again(tmp_path: Path) -> None:
    folder = extract_binaries(tmp_path)
    (folder / "bin" / "initdb").write_bytes(b"")
    assert extract_binaries(tmp_path) == folder
    assert (folder / "bin" / "initdb").stat().st_size > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


@as_root_only
def test_root_gives_the_server_to_another_user(home: Path, binaries: Path) -> None:
    with EmbeddedPostgres(home, binaries) as cluster:
        assert cluster.data.stat().st_uid != 0
        assert Path(f"/proc/{cluster.pid}").stat().st_uid == cluster.data.stat().st_uid


@as_root_only
def test_roots_private_home_keeps_its_data_outside(
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
    # The interpreter is loaded as root, for it may lie where nobody else can enter.
    answer = subprocess.run(
        [sys.executable, "-c", AS_ORDINARY_USER, str(home), str(binaries)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout + answer.stderr


@as_root_only
def test_it_runs_as_an_ordinary_user(new_home: Path, binaries: Path) -> None:
    extract_binaries(binaries)
    user = pwd.getpwnam("nobody")
    new_home.mkdir(mode=0o700)
    os.chown(new_home, user.pw_uid, user.pw_gid)
    assert as_ordinary_user(new_home, binaries) == "it runs as annals_owner\n"
    assert (new_home / "passwords.json").stat().st_uid == user.pw_uid


@as_root_only
def test_a_home_of_somebody_else_is_refused(new_home: Path, binaries: Path) -> None:
    new_home.mkdir(mode=0o700)
    answer = as_ordinary_user(new_home, binaries)
    assert answer.endswith("give it to this user, or choose another home.\n")
    assert "permission denied" in answer
