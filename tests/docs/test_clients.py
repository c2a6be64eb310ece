"""The clients of docs/clients.md, run unchanged over an unreliable network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from eventlog.connections import Connection
from eventlog.store.accounts import lock_accounts
from runtime.settings import REPOSITORY
from tests.support.api_server import Api, ApiWorkspace, after
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=15)

DOCUMENT = REPOSITORY / "docs" / "clients.md"
NODE_MIN = 18
RETRY_AFTER_S = 2
"""Longer than the clients' own delay before the first retries."""
RUN_WAIT_S = 120.0
WAIT_S = 60.0
HOP_BY_HOP = {
    *("connection", "keep-alive", "transfer-encoding", "date", "server"),
    *("content-length", "content-encoding"),  # the client here has decoded the body
}

PYTHON = """
import sys
from client import *

step, url, token, *arguments = sys.argv[1:]
client = connect(url, token, timeout_s={timeout_s})


def post(path, body):
    answer = send(client, "POST", path, json=json.loads(body))
    return summarize(answer)


def summarize(answer):
    replayed = answer.headers.get("Idempotent-Replayed")
    return {{"status": answer.status_code, "replayed": replayed, "body": answer.json()}}


def post_and_read(path, body):
    written = send(client, "POST", path, json=json.loads(body))
    return summarize(read_after(client, f"{{path}}/{{written.json()['id']}}", written))


def patch(path, body):
    shown = []
    return {{"done": change(client, path, json.loads(body), shown.append), "shown": shown}}


def items(path, page_size):
    return [each["id"] for each in walk(client, path, pageSize=page_size, sortBy="company")]


def export(path, file):
    file = Path(file)
    try:
        position = save_export(client, path, file, format="ndjson")
    except httpx.HTTPError:
        return {{"failed": True, "is_there": file.exists()}}
    return {{"position": position, "ids": [row["id"] for row in rows_of(file)]}}


print(json.dumps(globals()[step](*arguments)))
"""
JAVASCRIPT = """
import {{ existsSync, readFileSync }} from "node:fs";
import {{ connect, send, change, readAfter, walk, saveExport }} from "./client.mjs";

const [step, url, token, ...given] = process.argv.slice(2);
const client = connect(url, token, {timeout_s} * 1000);

const summarize = async (answer) => ({{
  status: answer.status,
  replayed: answer.headers.get("Idempotent-Replayed"),
  body: await answer.json(),
}});

const steps = {{
  async post(path, body) {{
    return summarize(await send(client, "POST", path, {{ json: JSON.parse(body) }}));
  }},
  async post_and_read(path, body) {{
    const written = await send(client, "POST", path, {{ json: JSON.parse(body) }});
    return summarize(await readAfter(client, `${{path}}/${{(await written.json()).id}}`, written));
  }},
  async patch(path, body) {{
    const shown = [];
    const done = await change(client, path, JSON.parse(body), (each) => shown.push(each));
    return {{ done, shown }};
  }},
  async items(path, pageSize) {{
    const found = [];
    const items = walk(client, path, {{ pageSize, sortBy: "company" }});
    for await (const each of items) found.push(each.id);
    return found;
  }},
  async export(path, file) {{
    try {{
      const position = await saveExport(client, path, file, {{ format: "ndjson" }});
      const lines = readFileSync(file, "utf-8").split("\\n").slice(0, -1);
      return {{ position, ids: lines.map((line) => JSON.parse(line).id) }};
    }} catch {{
      return {{ failed: true, is_there: existsSync(file) }};
    }}
  }},
}};
console.log(JSON.stringify(await steps[step](...given)));
"""


def blocks(language: str) -> str:
    """Return all code of the document in this language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.M | re.S)
    assert len(found) == 6
    return "\n\n".join(found)


def find_node() -> str:
    """Return the path of node. Without it, skip the test; in CI, fail."""
    path = shutil.which("node")
    reason = "node is not installed"
    if path is not None:
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.strip().removeprefix("v").partition(".")[0]) >= NODE_MIN:
            return path
        reason = f"node is {version.stdout.strip()}, {NODE_MIN} or later is needed"
    line = f"TESTS OF THE JAVASCRIPT CLIENT DID NOT RUN: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


@dataclass
class Client:
    """A program of the document's code and a driver that performs one step with it."""

    command: list[str]
    folder: Path

    def run(self, step: str, url: str, token: str, *arguments: str) -> Any:
        """Perform the step and return its result."""
        done = subprocess.run(
            [*self.command, step, url, token, *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_WAIT_S,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["python", "javascript"])
def make_client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that makes a client whose requests time out after `timeout_s` seconds."""
    folder = tmp_path_factory.mktemp(request.param)
    suffix, language, driver = {
        "python": ("py", "python", PYTHON),
        "javascript": ("mjs", "js", JAVASCRIPT),
    }[request.param]
    runtime = sys.executable if suffix == "py" else find_node()
    (folder / f"client.{suffix}").write_text(blocks(language), "utf-8")

    def make(timeout_s: float = WAIT_S) -> Client:
        program = folder / f"driver-{timeout_s:g}.{suffix}"
        program.write_text(driver.format(timeout_s=timeout_s), "utf-8")
        return Client([runtime, str(program)], folder)

    return make


MakeClient = Callable[..., Client]


@dataclass
class Network:
    """A proxy in front of the API, and the faults that it applies to the next requests."""

    upstream: str
    url: str = ""
    faults: list[str] = field(default_factory=list)
    """`lost`: no answer is sent. `busy`: 503 without asking the API. `half`: half of the body."""
    seen: list[tuple[str, str | None, int]] = field(default_factory=list)
    """Method, idempotency key and status of every request received."""
    waited_s: list[float] = field(default_factory=list)
    """Time between each 503 and the next request."""
    busy_since_s: float | None = None

    def statuses(self, method: str) -> list[int]:
        """Return the statuses of requests of this method."""
        return [status for each, _, status in self.seen if each == method]

    def keys(self) -> set[str | None]:
        """Return the idempotency keys of all writes."""
        return {key for method, key, _ in self.seen if method != "GET"}


class Relay(BaseHTTPRequestHandler):
    """Forwards one request to the API."""

    protocol_version = "HTTP/1.1"
    network: Network

    def do_any(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        network = type(self).network
        can_fail = self.command != "GET" or "/export" in self.path
        fault = network.faults.pop(0) if can_fail and network.faults else ""
        key = self.headers.get("Idempotency-Key")
        if network.busy_since_s is not None:
            network.waited_s.append(time.monotonic() - network.busy_since_s)
            network.busy_since_s = None
        if fault == "busy":
            network.seen.append((self.command, key, 503))
            network.busy_since_s = time.monotonic()
            self._answer(503, {"Retry-After": str(RETRY_AFTER_S)}, b"{}")
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP | {"host"}}
        answer = httpx.request(
            self.command, network.upstream + self.path, headers=headers, content=body,
            timeout=WAIT_S, verify=False,
        )  # fmt: skip
        network.seen.append((self.command, key, answer.status_code))
        if fault == "lost":
            self.close_connection = True
            return
        kept = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
        self._answer(answer.status_code, kept, answer.content, is_cut=fault == "half")

    do_GET = do_POST = do_PATCH = do_any  # noqa: N815 - the library's names

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = body[: len(body) // 2] if is_cut else body
        self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b"")
        if is_cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def network(api: Api) -> Iterator[Network]:
    network = Network(api.url)
    handler = type("RelayHere", (Relay,), {"network": network})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    network.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield network
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def database(api: Api) -> Iterator[Connection]:
    with psycopg.connect(str(api.settings.owner_url), autocommit=True) as connection:
        yield connection


def count_events(database: Connection, workspace_id: UUID) -> Counter[str]:
    """Return the number of events by topic."""
    rows = database.execute(
        "SELECT topic, count(*) FROM events WHERE workspace_id = %s GROUP BY topic", (workspace_id,)
    ).fetchall()
    return Counter(dict(rows))


ACME = json.dumps({"company": "Acme", "type": "customer"})


def test_write_with_a_lost_answer_is_done_once(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace, database: Connection
) -> None:
    network.faults = ["lost", "lost", "busy"]
    answer = make_client().run(
        "post", network.url, api_workspace.token("member"), "/api/accounts", ACME
    )
    assert (answer["status"], answer["replayed"]) == (201, "true")
    assert network.statuses("POST") == [201, 201, 503, 201]
    assert min(network.waited_s) > RETRY_AFTER_S * 0.99
    assert len(network.keys()) == 1
    assert count_events(database, api_workspace.workspace_id)["account.created"] == 1


def test_client_waits_for_a_write_in_flight(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace, database: Connection
) -> None:
    account = api_workspace.account()
    body = json.dumps({"name": "Ada", "accountId": account})
    answers: list[Any] = []
    client, token = make_client(timeout_s=2), api_workspace.token("member")
    sending = threading.Thread(
        target=lambda: answers.append(client.run("post", network.url, token, "/api/contacts", body))
    )
    with database.transaction():
        # Writes to the account wait for this lock; the client times out and retries.
        lock_accounts(database, exclusive=[UUID(account)])
        sending.start()
        wait_until(
            lambda: 409 in network.statuses("POST"),
            "the API refuses the retry because the first write is in flight",
        )
    sending.join()
    (answer,) = answers
    assert (answer["status"], answer["body"]["name"]) == (201, "Ada")
    assert len(network.keys()) == 1
    assert count_events(database, api_workspace.workspace_id)["contact.created"] == 1


def test_refusal_is_returned_without_a_retry(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace
) -> None:
    answer = make_client().run(
        "post", network.url, api_workspace.token("member"), "/api/accounts", "{}"
    )
    assert (answer["status"], answer["body"]["code"]) == (422, "E2003")
    assert network.statuses("POST") == [422]


def test_client_reads_its_own_write(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace
) -> None:
    token = api_workspace.token("member")
    answer = make_client().run("post_and_read", network.url, token, "/api/accounts", ACME)
    assert (answer["status"], answer["body"]["company"]) == (200, "Acme")
    assert answer["body"]["contactCount"] == 0


def test_change_is_shown_at_once_and_recorded_once(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace, database: Connection
) -> None:
    path = f"/api/accounts/{wait_until_readable(api_workspace, api_workspace.account())}"
    network.faults = ["lost"]
    change = json.dumps({"nextAction": "Call"})
    result = make_client().run("patch", network.url, api_workspace.token("member"), path, change)
    assert result["done"]
    assert [(each["nextAction"], each["version"]) for each in result["shown"]] == [
        ("Call", 1),
        ("Call", 2),
    ]
    assert network.statuses("PATCH") == [200, 200]
    assert count_events(database, api_workspace.workspace_id)["account.updated"] == 1


def test_change_is_reverted_after_a_concurrent_change(
    make_client: MakeClient,
    network: Network,
    api_workspace: ApiWorkspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = f"/api/accounts/{wait_until_readable(api_workspace, api_workspace.account())}"
    before = Relay.do_PATCH

    def patch_after_another_client(relay: Relay) -> None:
        answer = api_workspace.client().patch(path, json={"nextAction": "Write"})
        api_workspace.api.wait_until_projected(int(answer.headers["Annals-Position"]))
        before(relay)

    monkeypatch.setattr(Relay, "do_PATCH", patch_after_another_client)
    change = json.dumps({"nextAction": "Call"})
    result = make_client().run("patch", network.url, api_workspace.token("member"), path, change)
    assert not result["done"]
    assert [each["nextAction"] for each in result["shown"]] == ["Call", "Write"]
    assert network.statuses("PATCH") == [412]


def test_walk_returns_the_whole_list(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace
) -> None:
    ids = [api_workspace.account(company=f"C{number}") for number in range(5)]
    wait_until_readable(api_workspace, ids[-1])
    found = make_client().run(
        "items", network.url, api_workspace.token("member"), "/api/accounts", "2"
    )
    assert found == ids[::-1]


def test_broken_export_leaves_no_file(
    make_client: MakeClient, network: Network, api_workspace: ApiWorkspace, tmp_path: Path
) -> None:
    ids = [api_workspace.account(company=f"C{number}") for number in range(5)]
    wait_until_readable(api_workspace, ids[-1])
    network.faults = ["half", ""]
    client, token, file = (
        make_client(),
        api_workspace.token("member"),
        str(tmp_path / "accounts.ndjson"),
    )
    broken = client.run("export", network.url, token, "/api/accounts/export", file)
    assert broken == {"failed": True, "is_there": False}
    result = client.run("export", network.url, token, "/api/accounts/export", file)
    assert result["ids"] == ids[::-1]
    head = api_workspace.client().head("/api/accounts/export")
    assert result["position"] <= int(head.headers["Annals-Position"])


def wait_until_readable(api_workspace: ApiWorkspace, entity_id: str) -> str:
    """Wait until the account can be read, and return its id."""
    answer = api_workspace.client().patch(f"/api/accounts/{entity_id}", json={})
    read = api_workspace.client().get(f"/api/accounts/{entity_id}", headers=after(answer))
    assert read.status_code == 200
    return entity_id
