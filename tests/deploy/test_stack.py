"""The guide for Compose, followed on real servers with real processes."""

from __future__ import annotations

import json
import stat
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from projections.engine.registry import PROJECTIONS
from tests.support.compose import ComposeStack
from tests.support.databases import Urls
from tests.support.processes import api_without_projector
from tests.support.promql import alert_queries, dashboard_queries, exposed_names, unknown_names
from tests.support.source_files import refuse
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long(seconds=40)

ROLES = {
    "api": "annals_app",
    "worker": "annals_app",
    "sender": "annals_sender",
    "relay": "annals_projector",
    "projector": "annals_projector",
}


def get(compose: ComposeStack, path: str, token: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.get(f"http://127.0.0.1:{compose.port}{path}", headers=headers)


def superuser(compose: ComposeStack) -> psycopg.Connection:
    return psycopg.connect(compose.secret("annals_superuser_url"), autocommit=True)


def test_key_of_the_guide_is_an_admins_and_creates_an_account(compose: ComposeStack) -> None:
    created, printed, used = compose.printed
    assert "created secrets/annals_app_url" in created
    assert printed == ""  # the token is in the file and nowhere else
    me, account = (json.loads(line) for line in used.replace("}{", "}\n{").splitlines())
    assert me["role"] == "admin"
    assert account["company"] == "Example Ltd"


def test_key_of_the_guide_is_kept_from_others(compose: ComposeStack) -> None:
    mode = (compose.folder / "secrets" / "first_key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE((compose.folder / "secrets").stat().st_mode) == 0o700


def test_account_of_the_guide_is_projected_through_kafka(compose: ComposeStack) -> None:
    token = (compose.folder / "secrets" / "first_key").read_text("utf-8").strip()

    def is_listed() -> bool:
        items = get(compose, "/api/accounts", token).json()["items"]
        return [each["company"] for each in items] == ["Example Ltd"]

    wait_until(is_listed, "the account is listed")


def test_operator_key_sees_all_projections_held(compose: ComposeStack) -> None:
    token = compose.run("cli", "operators", "issue", "on call").strip()

    def is_healthy() -> bool:
        health = get(compose, "/healthz", token).json()
        return health["status"] == "ok" and len(health["projections"]) == len(PROJECTIONS)

    wait_until(is_healthy, "all projections are healthy")


def test_metrics_take_the_token_of_its_file(compose: ComposeStack) -> None:
    assert get(compose, "/metrics").status_code == 403
    assert get(compose, "/metrics", compose.secret("annals_metrics_token")).status_code == 200


def test_migrate_backs_up_into_the_home(compose: ComposeStack) -> None:
    """As in the guide; no other container has the superuser's URL."""
    backup = compose.home / f"backup-{uuid4()}"
    assert " events up to position " in compose.run("migrate", "backup", str(backup))
    assert (backup / "backup.json").exists()


def database_ports(compose: ComposeStack, service: str) -> list[int]:
    """Return the ports from which the processes of a service are connected to the database."""
    server = int(conninfo_to_dict(compose.secret("annals_superuser_url"))["port"] or 0)
    return [
        connection.laddr.port
        for process in compose.processes[service]
        for connection in psutil.Process(process.pid).net_connections()
        if connection.raddr and connection.raddr.port == server
    ]


@pytest.mark.parametrize("service", ROLES)
def test_process_connects_as_its_own_role(compose: ComposeStack, service: str) -> None:
    roles = "SELECT DISTINCT usename FROM pg_stat_activity WHERE client_port = ANY(%s)"
    with superuser(compose) as database:

        def has_own_role() -> bool:
            rows = database.execute(roles, (database_ports(compose, service),)).fetchall()
            assert rows in ([], [(ROLES[service],)])
            return bool(rows)

        wait_until(has_own_role, f"{service} is connected")


def test_no_process_has_a_secret_in_its_environment(compose: ComposeStack) -> None:
    secrets = [compose.secret(name) for name in compose.file["secrets"]]
    for service, processes in compose.processes.items():
        for process in processes:
            environment = " ".join(psutil.Process(process.pid).environ().values())
            assert not [each for each in secrets if each and each in environment], service


def test_database_asks_everybody_for_a_scram_password(compose: ComposeStack) -> None:
    with superuser(compose) as database:
        methods = database.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
        assert methods == [("scram-sha-256",)]
        verifiers = database.execute(
            "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword !~ '^SCRAM-SHA-256'"
        ).fetchall()
        assert verifiers == []
    url = compose.secret("annals_app_url").replace("annals_app:", "annals_app:not-")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


@pytest.fixture(scope="module")
def metrics(compose: ComposeStack) -> dict[str, set[str]]:
    """The labels of every series that /metrics has, once each kind has occurred."""
    urls = Urls(
        owner=compose.secret("annals_owner_url"),
        app=compose.secret("annals_app_url"),
        projector=compose.secret("annals_projector_url"),
        superuser=compose.secret("annals_superuser_url"),
    )
    # A second API process that soon refuses, because the defaults take thousands of requests.
    with api_without_projector(urls, rate_auth_failures_per_minute=1) as client:
        for _ in range(3):
            client.get("/api/me", headers={"Authorization": "Bearer annals_unknown"})
        refused = client.get("/metrics").text
    return exposed_names(
        get(compose, "/metrics", compose.secret("annals_metrics_token")).text, refused
    )


def test_alerts_name_metrics_that_exist(metrics: dict[str, set[str]]) -> None:
    refuse(name for query in alert_queries() for name in unknown_names(query, metrics))


def test_dashboard_names_metrics_that_exist(metrics: dict[str, set[str]]) -> None:
    refuse(name for query in dashboard_queries() for name in unknown_names(query, metrics))
