"""Checks of the whole log, requested over HTTP by auditors and operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import Urls
from tests.support.processes import running_projector
from tests.support.projection_admin import ProjectionAdmin, open_projection_admin
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=15)

CHECKS = "/api/log/verifications"
FORGET = "UPDATE projection_rebuilds SET ended_at = ended_at - interval '2 minutes'"
"""Makes the last check too old to be returned instead of a new one."""


@pytest.fixture
def admin(urls: Urls, tmp_path: Path) -> Iterator[ProjectionAdmin]:
    """An API beside a running projector, with an operator's client."""
    with (
        running_projector(urls, tmp_path / "projector.log"),
        open_projection_admin(urls) as admin,
    ):
        admin.wait_until_projected(admin.write("Acme").position)
        yield admin


def checked(admin: ProjectionAdmin, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Request a check and return it once it has ended."""
    accepted = admin.client.post(CHECKS, headers=headers)
    assert accepted.status_code == 202, accepted.text
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(admin.client.get(accepted.headers["Location"], headers=headers).json())
        return found["endedAt"] is not None

    wait_until(has_ended, "the check has ended")
    return found


def test_whole_log_is_confirmed_to_an_auditor(admin: ProjectionAdmin) -> None:
    auditor = admin.key_headers("auditor")
    found = checked(admin, auditor)
    assert found["state"] == "done", found
    assert "each event exactly once" in found["message"]
    assert "faults" not in found
    assert found["processed"] == found["total"] > 0
    assert found["secondsLeft"] is None
    listed = admin.client.get(CHECKS, headers=auditor).json()["items"]
    assert listed == [found]


def test_check_under_way_or_just_ended_is_shared(admin: ProjectionAdmin) -> None:
    first = checked(admin, admin.key_headers("auditor"))
    assert checked(admin)["id"] == first["id"]
    admin.database.execute(FORGET)
    assert checked(admin)["id"] != first["id"]


def test_tenants_have_a_share_of_the_time_for_checks(admin: ProjectionAdmin) -> None:
    """A check that took an hour and ended two minutes ago is returned to a tenant, and no other."""
    auditor = admin.key_headers("auditor")
    first = checked(admin, auditor)
    admin.database.execute(FORGET)
    admin.database.execute(
        "UPDATE projection_rebuilds SET started_at = ended_at - interval '1 hour' WHERE id = %s",
        (first["id"],),
    )
    assert checked(admin, auditor)["id"] == first["id"]
    assert checked(admin)["id"] != first["id"]


def test_faults_are_counted_for_tenants_and_named_for_operators(admin: ProjectionAdmin) -> None:
    admin.database.execute("ALTER TABLE events DISABLE TRIGGER events_are_never_changed")
    admin.database.execute("UPDATE events SET recorded_at = recorded_at - interval '1 second'")
    found = checked(admin)
    assert found["state"] == "failed"
    assert any("events_are_never_changed" in each for each in found["faults"])
    assert any(each.startswith("accounts: ") for each in found["faults"])
    shown = admin.client.get(f"{CHECKS}/{found['id']}", headers=admin.key_headers("auditor"))
    assert shown.json()["message"] == f"{len(found['faults'])} faults were found"
    assert "trigger" not in shown.text


@pytest.mark.parametrize("role", ["member", "analyst", "read-only"])
def test_other_roles_are_refused(role: str, admin: ProjectionAdmin) -> None:
    headers = admin.key_headers(role)
    for method, path in (("POST", CHECKS), ("GET", CHECKS), ("GET", f"{CHECKS}/1")):
        refused = admin.client.request(method, path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "E1008"), path
    assert admin.client.get(f"{CHECKS}/99").json()["code"] == "E5002"
    assert admin.client.get(f"{CHECKS}/x").json()["code"] == "E5002"
