"""Twenty swaps of read tables while clients write and read over HTTP, without any failure."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.databases import Urls
from tests.support.processes import running_projector
from tests.support.projection_admin import ProjectionAdmin, open_projection_admin
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=40)

SWAPS = 20
CLIENTS = 2
PAUSE_S = 0.02
PROJECTIONS = ("accounts", "contacts", "members")


@pytest.fixture
def admin(urls: Urls, tmp_path: Path) -> Iterator[ProjectionAdmin]:
    """Run the API on a socket and a projector process."""
    with running_projector(urls, tmp_path / "projector.log"), open_projection_admin(urls) as admin:
        yield admin


class Client(threading.Thread):
    """Writes, and reads lists that must show all its writes, until it is stopped."""

    def __init__(self, admin: ProjectionAdmin, workspace: dict[str, str]) -> None:
        super().__init__()
        self._http = httpx.Client(base_url=admin.client.base_url, headers=workspace, timeout=60)
        self._stopped = threading.Event()
        self.faults: list[str] = []
        self.rounds = 0

    def run(self) -> None:
        """Create an account and a contact each round; check lists, counts and audit trail."""
        with self._http:
            while not self._stopped.wait(PAUSE_S):
                company = uuid4().hex
                account = self._write("/api/accounts", company=company, type="customer")
                self.rounds += 1
                contact = self._write(
                    "/api/contacts", accountId=account["id"], name=f"Ada {company}"
                )
                wanted = {
                    f"/api/accounts?search={company}&includeStats=true": 1,
                    "/api/accounts?pageSize=1": self.rounds,
                    f"/api/contacts?search={company}": 1,
                    "/api/contacts?pageSize=1": self.rounds,
                }
                for path, total in wanted.items():
                    page = self._read(path, contact["position"])
                    if page["pagination"]["totalItems"] != total:
                        self.faults.append(f"{path}: {page['pagination']}, not {total}")
                row = self._read(f"/api/accounts?search={company}", contact["position"])
                if [each["contactCount"] for each in row["items"]] != [1]:
                    self.faults.append(f"{company}: {row}")
                trail = self._read(f"/api/audit?entityId={account['id']}", contact["position"])
                if len(trail["items"]) != 1:
                    self.faults.append(f"{company}: {trail}")

    def _write(self, path: str, **fields: str) -> dict[str, str]:
        answer = self._http.post(path, json=fields)
        if answer.status_code != httpx.codes.CREATED:
            self.faults.append(f"{path}: {answer.status_code} {answer.text}")
        return {"id": answer.json()["id"], "position": answer.headers["Annals-Position"]}

    def _read(self, path: str, position: str) -> Any:
        answer = self._http.get(path, headers={"Annals-Min-Position": position})
        if answer.status_code != httpx.codes.OK:
            self.faults.append(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopped.set()


def test_twenty_swaps_cause_no_failed_request_and_no_stale_page(admin: ProjectionAdmin) -> None:
    clients = [Client(admin, admin.key_headers("admin", uuid4())) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        wait_until(
            lambda: all(client.rounds > 1 for client in clients), "every client has done two rounds"
        )
        for name in itertools.islice(itertools.cycle(PROJECTIONS), SWAPS):
            accepted = admin.ask("rebuild", name)
            assert accepted.status_code == httpx.codes.ACCEPTED, accepted.text
            ended = admin.ended(accepted.headers["Location"])
            assert ended["state"] == "done", ended
    finally:
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
    assert [client.faults for client in clients] == [[]] * CLIENTS
    assert sum(client.rounds for client in clients) > SWAPS
