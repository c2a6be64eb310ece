"""The clients of docs/clients.md, run as they stand there, over a network that breaks."""

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
"""Longer than a client waits so early by itself."""
RUN_WAIT_S = 120.0
WAIT_S = 60.0
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}

PYTHON = """
import sys
from client import *

step, url, token, *arguments = sys.argv[1:]
client = connect(url, token, timeout_s={timeout_s})


def post(path, body):
    answer = send(client, "POST", path, json=json.loads(body))
    return told(answer)


def told(answer):
    replayed = answer.headers.get("Idempotent-Replayed")
    return {{"status": answer.status_code, "replayed": replayed, "body": answer.json()}}


def post_and_read(path, body):
    written = send(client, "POST", path, json=json.loads(body))
    return told(read_after(client, f"{{path}}/{{written.json()['id']}}", written))


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

const told = async (answer) => ({{
  status: answer.status,
  replayed: answer.headers.get("Idempotent-Replayed"),
  body: await answer.json(),
}});

const steps = {{
  async post(path, body) {{
    return told(await send(client, "POST", path, {{ json: JSON.parse(body) }}));
  }},
  async post_and_read(path, body) {{
    const written = await send(client, "POST", path, {{ json: JSON.parse(body) }});
    return told(await readAfter(client, `${{path}}/${{(await written.json()).id}}`, written));
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
    """All code of the document in this language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.M | re.S)
    assert len(found) == 6
    return "\n\n".join(found)


def node() -> str:
    """Node. Where there is none to be had, the summary says so; CI fails."""
    path = shutil.which("node")
    reason = "node is not installed"
    if path is not None:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        if int(told.stdout.strip().removeprefix("v").partition(".")[0]) >= NODE_MIN:
            return path
        reason = f"node is {told.stdout.strip()}, {NODE_MIN} or later is needed"
    line = f"TESTS OF THE JAVASCRIPT CLIENT DID NOT RUN: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


@dataclass
class Client:
    """A program made of the document's code and of one step to take with it."""

    command: list[str]
    folder: Path

    def does(self, step: str, url: str, token: str, *arguments: str) -> Any:
        """What the step came to."""
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
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a client of the document that waits so many seconds for an answer."""
    folder = tmp_path_factory.mktemp(request.param)
    suffix, language, driver = {
        "python": ("py", "python", PYTHON),
        "javascript": ("mjs", "js", JAVASCRIPT),
    }[request.param]
    runtime = sys.executable if suffix == "py" else node()
    (folder / f"client.{suffix}").write_text(blocks(language), "utf-8")

    def make(timeout_s: float = WAIT_S) -> Client:
        program = folder / f"driver-{timeout_s:g}.{suffix}"
        program.write_text(driver.format(timeout_s=timeout_s), "utf-8")
        return Client([runtime, str(program)], folder)

    return make


Make = Callable[..., Client]


@dataclass
class Network:
    """A proxy before the API, and what it does to the next requests."""

    upstream: str
    url: str = ""
    faults: list[str] = field(default_factory=list)
    """`lost`: the answer is never sent. `busy`: 503 without asking. `half`: of the body, a half."""
    seen: list[tuple[str, str | None, int]] = field(default_factory=list)
    """Method, idempotency key and status of every request that came."""
    waited_s: list[float] = field(default_factory=list)
    """How long after a 503 the next request came."""
    busy_since_s: float | None = None

    def statuses(self, method: str) -> list[int]:
        """What requests of this method came to."""
        return [status for each, _, status in self.seen if each == method]

    def keys(self) -> set[str | None]:
        """The idempotency keys of all writes."""
        return {key for method, key, _ in self.seen if method != "GET"}


class Relay(BaseHTTPRequestHandler):
    """Hands one request on."""

    protocol_version = "HTTP/1.1"
    network: Network

    def do_any(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        network = type(self).network
        wanted = self.command != "GET" or "/export" in self.path
        fault = network.faults.pop(0) if wanted and network.faults else ""
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
        told = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
        self._answer(answer.status_code, told, answer.content, is_cut=fault == "half")

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
        """Nobody listens."""


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


def recorded(database: Connection, workspace_id: UUID) -> Counter[str]:
    """How many events of each topic there are."""
    rows = database.execute(
        "SELECT topic, count(*) FROM events WHERE workspace_id = %s GROUP BY topic", (workspace_id,)
    ).fetchall()
    return Counter(dict(rows))


ACME = json.dumps({"company": "Acme", "type": "customer"})


def test_a_write_whose_answer_was_lost_is_done_once(
    made: Make, network: Network, api_workspace: ApiWorkspace, database: Connection
) -> None:
    network.faults = ["lost", "lost", "busy"]
    answer = made().does("post", network.url, api_workspace.token("member"), "/api/accounts", ACME)
    assert (answer["status"], answer["replayed"]) == (201, "true")
    assert network.statuses("POST") == [201, 201, 503, 201]
    assert min(network.waited_s) > RETRY_AFTER_S * 0.99
    assert len(network.keys()) == 1
    assert recorded(database, api_workspace.workspace_id)["account.created"] == 1


def test_a_write_that_is_still_in_flight_is_waited_for(
    made: Make, network: Network, api_workspace: ApiWorkspace, database: Connection
) -> None:
    account = api_workspace.account()
    body = json.dumps({"name": "Ada", "accountId": account})
    answers: list[Any] = []
    client, token = made(timeout_s=2), api_workspace.token("member")
    asking = threading.Thread(
        target=lambda: answers.append(
            client.does("post", network.url, token, "/api/contacts", body)
        )
    )
    with database.transaction():
        # Whoever adds to the account waits for this; the client gives up waiting and asks again.
        lock_accounts(database, exclusive=[UUID(account)])
        asking.start()
        wait_until(lambda: 409 in network.statuses("POST"), "a write has met the one in flight")
    asking.join()
    (answer,) = answers
    assert (answer["status"], answer["body"]["name"]) == (201, "Ada")
    assert len(network.keys()) == 1
    assert recorded(database, api_workspace.workspace_id)["contact.created"] == 1


def test_a_refusal_is_an_answer(made: Make, network: Network, api_workspace: ApiWorkspace) -> None:
    answer = made().does("post", network.url, api_workspace.token("member"), "/api/accounts", "{}")
    assert (answer["status"], answer["body"]["code"]) == (422, "E2003")
    assert network.statuses("POST") == [422]


def test_one_reads_what_one_wrote(
    made: Make, network: Network, api_workspace: ApiWorkspace
) -> None:
    token = api_workspace.token("member")
    answer = made().does("post_and_read", network.url, token, "/api/accounts", ACME)
    assert (answer["status"], answer["body"]["company"]) == (200, "Acme")
    assert answer["body"]["contactCount"] == 0


def test_a_change_is_shown_at_once_and_done_once(
    made: Make, network: Network, api_workspace: ApiWorkspace, database: Connection
) -> None:
    path = f"/api/accounts/{projected(api_workspace, api_workspace.account())}"
    network.faults = ["lost"]
    change = json.dumps({"nextAction": "Call"})
    result = made().does("patch", network.url, api_workspace.token("member"), path, change)
    assert result["done"]
    assert [(each["nextAction"], each["version"]) for each in result["shown"]] == [
        ("Call", 1),
        ("Call", 2),
    ]
    assert network.statuses("PATCH") == [200, 200]
    assert recorded(database, api_workspace.workspace_id)["account.updated"] == 1


def test_a_change_is_taken_back_where_somebody_was_faster(
    made: Make, network: Network, api_workspace: ApiWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/accounts/{projected(api_workspace, api_workspace.account())}"
    before = Relay.do_PATCH

    def overtaken(relay: Relay) -> None:
        answer = api_workspace.client().patch(path, json={"nextAction": "Write"})
        api_workspace.api.wait_until_projected(int(answer.headers["Annals-Position"]))
        before(relay)

    monkeypatch.setattr(Relay, "do_PATCH", overtaken)
    change = json.dumps({"nextAction": "Call"})
    result = made().does("patch", network.url, api_workspace.token("member"), path, change)
    assert not result["done"]
    assert [each["nextAction"] for each in result["shown"]] == ["Call", "Write"]
    assert network.statuses("PATCH") == [412]


def test_a_list_is_walked_to_its_end(
    made: Make, network: Network, api_workspace: ApiWorkspace
) -> None:
    ids = [api_workspace.account(company=f"C{number}") for number in range(5)]
    projected(api_workspace, ids[-1])
    found = made().does("items", network.url, api_workspace.token("member"), "/api/accounts", "2")
    assert found == ids[::-1]


def test_an_export_is_there_whole_or_not_at_all(
    made: Make, network: Network, api_workspace: ApiWorkspace, tmp_path: Path
) -> None:
    ids = [api_workspace.account(company=f"C{number}") for number in range(5)]
    projected(api_workspace, ids[-1])
    network.faults = ["half", ""]
    client, token, file = made(), api_workspace.token("member"), str(tmp_path / "accounts.ndjson")
    broken = client.does("export", network.url, token, "/api/accounts/export", file)
    assert broken == {"failed": True, "is_there": False}
    result = client.does("export", network.url, token, "/api/accounts/export", file)
    assert result["ids"] == ids[::-1]
    head = api_workspace.client().head("/api/accounts/export")
    assert result["position"] <= int(head.headers["Annals-Position"])


def projected(api_workspace: ApiWorkspace, entity_id: str) -> str:
    """The account, which can be read now."""
    answer = api_workspace.client().patch(f"/api/accounts/{entity_id}", json={})
    read = api_workspace.client().get(f"/api/accounts/{entity_id}", headers=after(answer))
    assert read.status_code == 200
    return entity_id
