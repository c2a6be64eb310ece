"""Starting from a clone: the script `annals`, and the processes that `annals up` keeps running."""

import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from runtime.settings import REPOSITORY
from server.processes.supervisor import RESTART_DELAYS_S, Prepared, restart_delay_s, welcome_lines
from tests.support.postgres_server import reachable_folder
from tests.support.processes import command_line_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=25)

WAIT_MAX_S = 60.0
ACCOUNTS = "/api/accounts"
ACCOUNT = {"company": "Acme", "type": "customer"}
PRINT_ARGUMENTS = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.path.realpath(sys.prefix))
"""
# A fake uv: counts its calls and runs the script in the file `behave`.
FAKE_UV = """#!/bin/sh
echo called >>"{folder}/calls"
sleep 0.2
[ ! -e "{folder}/behave" ] || . "{folder}/behave"
"""


class Clone:
    """A clone with the real script, empty lock files and a fake uv."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone with space"
        self.tools = folder / "tools"
        self.elsewhere = folder / "elsewhere"
        self.venv = self.folder / ".venv"
        for new_folder in (self.folder / "server" / "cli", self.tools, self.elsewhere):
            new_folder.mkdir(parents=True)
        shutil.copy(REPOSITORY / "annals", self.folder)
        (self.folder / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
        (self.folder / "requirements-dev.txt").write_text("# nothing\n", encoding="utf-8")
        (self.folder / "server" / "__init__.py").touch()
        (self.folder / "server" / "cli" / "__init__.py").touch()
        (self.folder / "server" / "cli" / "__main__.py").write_text(
            PRINT_ARGUMENTS, encoding="utf-8"
        )
        self.add_tool("uv", FAKE_UV.format(folder=self.tools))

    def add_tool(self, name: str, content: str) -> None:
        (self.tools / name).write_text(content, encoding="utf-8")
        (self.tools / name).chmod(0o755)

    def popen(
        self, *arguments: str, script: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        base = {name: value for name, value in os.environ.items() if not name.startswith("ANNALS_")}
        path = f"{self.tools}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            [str(script or self.folder / "annals"), *arguments],
            cwd=self.elsewhere,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=base | {"PATH": path, "ANNALS_PYTHON": sys.executable} | environment,
        )

    def run(
        self, *arguments: str, script: Path | None = None, **environment: str
    ) -> tuple[int, str, str]:
        process = self.popen(*arguments, script=script, **environment)
        out, err = process.communicate(timeout=WAIT_MAX_S)
        return process.returncode, out, err

    def installs(self) -> int:
        calls = self.tools / "calls"
        return len(calls.read_text(encoding="utf-8").splitlines()) if calls.exists() else 0


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_second_start_installs_nothing(clone: Clone) -> None:
    for _ in range(2):
        code, out, _ = clone.run("up", "--port", "9")
        assert code == 0
        assert out.strip() == f"['up', '--port', '9'] {clone.elsewhere} {clone.venv}"
    assert clone.installs() == 1


def test_script_works_through_a_link_and_beside_another_server_package(clone: Clone) -> None:
    (clone.elsewhere / "server" / "cli").mkdir(parents=True)
    shadow = clone.elsewhere / "server" / "cli" / "__main__.py"
    shadow.write_text("raise SystemExit(9)", encoding="utf-8")
    link = clone.elsewhere / "linked"
    link.symlink_to(Path("..") / clone.folder.name / "annals")
    assert clone.run("up", script=link)[0] == 0


def test_two_starts_at_once_install_once(clone: Clone) -> None:
    both = [clone.popen("up") for _ in range(2)]
    for process in both:
        process.communicate(timeout=WAIT_MAX_S)
    assert [process.returncode for process in both] == [0, 0]
    assert clone.installs() == 1


def test_lock_file_created_by_a_concurrent_start_is_accepted(clone: Clone) -> None:
    mark = clone.venv / "annals-lock"
    clone.add_tool("ls", f'#!/bin/sh\nmkdir -p "{clone.venv}"\n: >>"{mark}"\necho annals-lock\n')
    code, _, err = clone.run("up")
    assert (code, "was not made by annals" in err) == (0, False)


def test_interrupted_install_is_repeated(clone: Clone) -> None:
    behave = clone.tools / "behave"
    behave.write_text("kill -9 $PPID; exit 1", encoding="utf-8")
    assert clone.run("up")[0] != 0
    behave.unlink()
    (clone.venv / "half-installed").touch()
    assert clone.run("up")[0] == 0
    assert clone.installs() == 2
    assert not (clone.venv / "half-installed").exists()


def test_changed_lock_file_is_installed(clone: Clone) -> None:
    clone.run("up")
    (clone.folder / "requirements.txt").write_text("# changed\n", encoding="utf-8")
    clone.run("up")
    assert clone.installs() == 2


def test_development_tools_are_added_to_the_existing_environment(clone: Clone) -> None:
    clone.run("up")
    (clone.venv / "kept").touch()
    assert clone.run("test")[0] == 0
    assert clone.run("up")[0] == 0
    assert clone.installs() == 2
    assert (clone.venv / "kept").exists()


def test_pip_installs_if_uv_fails(clone: Clone) -> None:
    clone.add_tool("uv", "#!/bin/sh\nexit 1\n")
    code, _, err = clone.run("up")
    assert code == 0
    assert "trying pip" in err


def test_folder_not_made_by_annals_is_left_alone(clone: Clone) -> None:
    (clone.elsewhere / "precious").touch()
    code, _, err = clone.run("up", ANNALS_VENV=str(clone.elsewhere))
    assert code == 1
    assert "was not made by annals" in err
    assert (clone.elsewhere / "precious").exists()


def test_unusable_python_is_named(clone: Clone) -> None:
    code, _, err = clone.run("up", ANNALS_PYTHON="/bin/false")
    assert code == 1
    assert err == (
        "annals: ANNALS_PYTHON=/bin/false is not a Python 3.11 or later: name another one.\n"
    )


def test_missing_python_is_reported(clone: Clone) -> None:
    bare = clone.elsewhere / "bin"
    bare.mkdir()
    for tool in ("sh", "dirname", "readlink"):
        (bare / tool).symlink_to(str(shutil.which(tool)))
    code, _, err = clone.run("up", PATH=str(bare), ANNALS_PYTHON="")
    assert code == 1
    assert err.startswith("annals: no Python 3.11 or later was found")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Running:
    """A running `annals up` and its home."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.log = home.parent / "output.txt"
        self.process = self.popen(home, port)

    def popen(self, home: Path, port: int, **more: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "server.cli", "up", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(home), **more},
            )

    def restart(self, **more: str) -> None:
        self.end()
        self.process = self.popen(self.home, self.port, **more)
        self.wait_until_up()

    def status(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Send a request with the token of the home; return the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_MAX_S)
        token = (self.home / "token").read_text("utf-8").strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def connection(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.home / "connection.json").read_text())
        return content

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            return (self.home / "connection.json").exists()

        wait_until(is_up, "annals up has started")

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, command: str) -> psutil.Process:
        return next(each for each in self.children() if command_line_of(each)[-1:] == [command])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WAIT_MAX_S)


def environment(home: Path) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANNALS_")}
    return kept | {"ANNALS_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}


def run_refused_start(home: Path, port: int) -> str:
    """Return the error message of an `annals up` that does not start."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", "up", "--port", str(port)],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=WAIT_MAX_S,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with reachable_folder(in_memory=True) as folder:
        annals = Running(folder / "home", free_port())
        try:
            annals.wait_until_up()
            yield annals
        finally:
            annals.end()


def test_connection_file_is_private_and_complete(running: Running) -> None:
    path = running.home / "connection.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection = running.connection()
    assert connection["url"] == f"http://127.0.0.1:{running.port}"
    assert connection["pid"] == running.process.pid
    assert connection["token"] == (running.home / "token").read_text().strip()
    assert running.is_healthy()


def test_output_shows_commands_to_try(running: Running) -> None:
    output = running.log.read_text(encoding="utf-8")
    token = str(running.connection()["token"])
    assert token not in output, "the output is no terminal, and may be kept as a log"
    assert output.count(f'curl -H "Authorization: Bearer $(cat {running.home / "token"})"') == 3
    assert f"Ctrl-C stops it; the data stays in {running.home}." in output


def test_terminal_shows_the_token_once_and_in_no_command() -> None:
    prepared = Prepared("annals_1_secret", Path("/home/ada/.annals/token"), is_new=True)
    lines = welcome_lines("http://127.0.0.1:8321", prepared, "/home/ada", shows_token=True)
    assert [line for line in lines if prepared.token in line] == [
        "Token, shown only now: annals_1_secret"
    ]


def test_first_start_says_what_it_does(running: Running) -> None:
    output = running.log.read_text(encoding="utf-8")
    steps = [line for line in output.splitlines() if line.startswith("[")]
    assert [step.partition("]")[0] for step in steps] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert steps[0] == "[1/4] Unpacking and starting PostgreSQL ..."
    assert output.index(steps[-1]) < output.index("Annals answers at")


def test_second_start_of_the_home_is_refused(running: Running) -> None:
    output = run_refused_start(running.home, free_port())
    expected = (
        f"already running as process {running.process.pid} at http://127.0.0.1:{running.port}"
    )
    assert expected in output


def test_taken_port_is_refused_before_anything_starts(running: Running) -> None:
    other_home = running.home.parent / "other"
    output = run_refused_start(other_home, running.port)
    assert output == (
        f"annals: Port {running.port} is taken by another program: choose another with --port.\n"
    )
    assert not (other_home / "postgres").exists()


@pytest.mark.parametrize("command", ["serve", "project", "work", "send"])
def test_killed_process_is_restarted(running: Running, command: str) -> None:
    before = running.child(command)
    before.kill()
    before.wait(WAIT_MAX_S)
    wait_until(
        lambda: any(command_line_of(each)[-1:] == [command] for each in running.children()),
        "the process is started again",
    )
    wait_until(running.is_healthy, "the API answers")
    assert "ended (killed by SIGKILL); starting it again" in running.log.read_text()


def test_killed_database_is_restarted(running: Running) -> None:
    def postmasters() -> list[psutil.Process]:
        direct = psutil.Process(running.process.pid).children()
        return [each for each in direct if "postgres" in "".join(command_line_of(each)[:1])]

    commands = ("serve", "project", "work", "send")
    processes = {command: running.child(command).pid for command in commands}
    (before,) = postmasters()
    before.kill()
    wait_until(
        lambda: "PostgreSQL ended; starting it again" in running.log.read_text(),
        "the supervisor reports the end of PostgreSQL",
    )
    wait_until(
        lambda: [child.pid for child in postmasters()] not in ([], [before.pid]),
        "PostgreSQL is started again",
    )
    # A pool may still have a connection of the server that ended, whose next user gets 503.
    wait_until(lambda: running.status("GET", ACCOUNTS)[0] == 200, "reads are answered")
    wait_until(lambda: running.status("POST", ACCOUNTS, ACCOUNT)[0] == 201, "writes are accepted")
    assert {command: running.child(command).pid for command in commands} == processes


def test_writes_are_refused_before_the_disk_is_full(running: Running) -> None:
    """A minimum that no disk has stands for a disk that is nearly full."""
    running.end()
    earlier = len(running.log.read_text("utf-8"))
    running.restart(ANNALS_DISK_FREE_MIN_BYTES=str(10**15))
    wait_until(lambda: running.status("POST", ACCOUNTS, ACCOUNT)[0] == 507, "writes are refused")
    assert '"code":"E3008"' in running.status("POST", ACCOUNTS, ACCOUNT)[1]
    assert running.status("GET", ACCOUNTS)[0] == 200
    health = running.status("GET", "/healthz")
    assert health[0] == 503
    assert "the database refuses writes" in health[1]
    metrics = running.status("GET", "/metrics")[1]
    assert "annals_database_read_only 1.0" in metrics
    assert "annals_disk_free_bytes " in metrics
    assert "annals_disk_size_bytes " in metrics
    output = running.log.read_text("utf-8")[earlier:]
    assert output.count("writes are refused until there are") == 1
    assert "Traceback" not in output, output
    running.restart()
    wait_until(lambda: running.status("POST", ACCOUNTS, ACCOUNT)[0] == 201, "writes are accepted")


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_the_supervisor(running: Running, number: signal.Signals) -> None:
    """Stop the supervisor with each signal; a new start keeps the token."""
    token = str(running.connection()["token"])
    children = running.children()
    assert len(children) > 2
    running.process.send_signal(number)
    code = running.process.wait(WAIT_MAX_S)
    wait_until(lambda: all(map(is_gone, children)), "all processes are gone")
    if number != signal.SIGKILL:
        assert code == 0
        assert not (running.home / "connection.json").exists()
    (running.home / "connection.json").unlink(missing_ok=True)
    running.process = running.popen(running.home, running.port)
    running.wait_until_up()
    assert running.connection()["token"] == token
    assert token not in running.log.read_text(encoding="utf-8")


def test_restarts_slow_down_and_never_end() -> None:
    delays = [restart_delay_s(failures) for failures in range(100)]
    assert delays == sorted(delays)
    assert delays[-1] == RESTART_DELAYS_S[-1] == 5.0
