"""compose.yaml: what every container may do, reach and read; one test a rule."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import REPOSITORY, Settings
from server.postgres.tuning import INITDB_ARGUMENTS, SERVER_SETTINGS
from tests.support.compose import (
    COMPOSE_FILE,
    COPY,
    KAFKA,
    POSTGRES,
    SECRETS_FOLDER,
    dockerfile,
    load_compose,
)
from tests.support.kafka_broker import KAFKA as KAFKA_VERSION
from tests.support.source_files import refuse

COMPOSE = load_compose()
SERVICES: dict[str, Any] = COMPOSE["services"]
OWN = {name: each for name, each in SERVICES.items() if "build" in each}
ONE_OFF = {"migrate", "cli"}
URLS = {"annals_owner_url", "annals_app_url", "annals_projector_url"}
TWILIO = "annals_sms_twilio_token"

SECRETS: dict[str, set[str]] = {
    "postgres": {"postgres_password"},
    "kafka": set(),
    "migrate": {*URLS, "annals_sender_url", "annals_superuser_url"},
    "cli": URLS,
    "api": {"annals_app_url", "annals_metrics_token", TWILIO},
    "relay": {"annals_projector_url"},
    "projector": {"annals_projector_url"},
    "worker": {"annals_app_url"},
    "sender": {"annals_sender_url", TWILIO},
}
NETWORKS = {
    "postgres": {"database"},
    "kafka": {"broker"},
    "migrate": {"database"},
    "cli": {"database"},
    "api": {"database", "public"},
    "relay": {"database", "broker"},
    "projector": {"database", "broker"},
    "worker": {"database"},
    "sender": {"database", "gateway"},
}
PINNED = re.compile(r"[\w/]+:\d+\.\d+(\.\d+)?(-\w+)*")
SIZE = re.compile(r"(\d+)([mg])b?")
MIB = {"m": 1, "g": 1_024}


def mebibytes(size: str) -> int:
    found = SIZE.fullmatch(size)
    assert found, size
    return int(found[1]) * MIB[found[2]]


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_file_satisfies_the_schema_of_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema"]
    schema = ["--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run(
        [*command, *schema, str(COMPOSE_FILE)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_containers_have_no_capabilities_and_gain_none() -> None:
    refuse(
        name
        for name, each in SERVICES.items()
        if each.get("cap_drop") != ["ALL"]
        or each.get("security_opt") != ["no-new-privileges:true"]
        or each.keys() & {"cap_add", "privileged", "devices", "pid", "ipc", "network_mode"}
    )


def test_containers_have_a_read_only_file_system_and_no_folder_of_the_machine() -> None:
    mounts = {name: each.get("volumes", []) for name, each in SERVICES.items()}
    refuse(
        name
        for name, each in SERVICES.items()
        if not each.get("read_only")
        or any(mount.partition(":")[0] not in COMPOSE["volumes"] for mount in mounts[name])
        or any("size=" not in mount for mount in each.get("tmpfs", []))
    )


def test_containers_run_as_users_other_than_root() -> None:
    refuse(
        name
        for name, each in SERVICES.items()
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", each.get("user", ""))
    )


def test_containers_have_limits_of_memory_processes_and_logs() -> None:
    refuse(
        name
        for name, each in SERVICES.items()
        if not each.keys() >= {"mem_limit", "pids_limit", "logging"}
    )


def test_guide_has_the_sum_of_the_memory_limits() -> None:
    limits = [
        mebibytes(each["mem_limit"]) * each.get("deploy", {}).get("replicas", 1)
        for name, each in SERVICES.items()
        if name not in ONE_OFF
    ]
    guide = (REPOSITORY / "docs/how-to/run-with-compose.md").read_text("utf-8")
    assert f"add up to {sum(limits) // 1_024} GiB" in guide


def test_containers_restart_unless_they_end_by_themselves() -> None:
    refuse(
        name
        for name, each in SERVICES.items()
        if (each.get("restart") == "unless-stopped") != (name not in ONE_OFF)
    )


def test_servers_have_a_health_check() -> None:
    assert {name for name, each in SERVICES.items() if "healthcheck" in each} == {
        *("api", POSTGRES, KAFKA),
    }


def test_processes_have_longer_to_stop_than_their_open_requests() -> None:
    timeout_s = Settings.model_fields["shutdown_timeout_s"].default
    refuse(name for name, each in OWN.items() if seconds(each["stop_grace_period"]) < 2 * timeout_s)


def test_images_have_an_exact_version() -> None:
    (base,) = re.findall(r"^FROM (\S+)$", dockerfile(), re.M)
    images = [base, *(each["image"] for name, each in SERVICES.items() if name not in OWN)]
    refuse(image for image in images if not PINNED.fullmatch(image))


def test_broker_is_the_one_of_the_tests() -> None:
    assert SERVICES[KAFKA]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_dockerfile_makes_the_user_of_the_containers() -> None:
    for each in OWN.values():
        user, group = each["user"].split(":")
        assert f"--uid {user} --gid {group} " in dockerfile()


def test_dockerfile_copies_what_docker_may_see_and_no_tests() -> None:
    seen = (REPOSITORY / ".dockerignore").read_text("utf-8").split()
    assert {*COPY.findall(dockerfile())} == {each[1:] for each in seen if each.startswith("!")}


@pytest.mark.parametrize("service", SERVICES)
def test_service_reaches_the_networks_that_it_needs(service: str) -> None:
    assert set(SERVICES[service]["networks"]) == NETWORKS[service]


def test_networks_of_database_and_broker_are_internal() -> None:
    networks = COMPOSE["networks"]
    assert {name for name, each in networks.items() if each.get("internal")} == {
        "database",
        "broker",
    }


def test_only_the_api_publishes_a_port_and_only_on_loopback() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published == {"api": ["127.0.0.1:8321:8321"]}


@pytest.mark.parametrize("service", SERVICES)
def test_service_sees_the_secrets_that_it_needs(service: str) -> None:
    assert set(SERVICES[service].get("secrets", [])) == SECRETS[service]


def test_secrets_are_files_and_no_variables() -> None:
    refuse(
        f"{service}: {name}={value}"
        for service, each in SERVICES.items()
        for name, value in each.get("environment", {}).items()
        if re.search("PASSWORD|SECRET|TOKEN|_URL$", name)
        and not value.startswith(SECRETS_FOLDER)
        and name != "ANNALS_SMS_PUBLIC_URL"
    )


def test_guide_has_networks_and_secrets_of_each_container() -> None:
    guide = (REPOSITORY / "docs/how-to/run-with-compose.md").read_text("utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    for service, networks in NETWORKS.items():
        (row,) = (line for line in rows if f"`{service}`" in line.split("|")[1])
        assert set(row.split("|")[2].strip().split(", ")) == networks


def test_variables_and_secrets_of_annals_are_settings() -> None:
    known = {f"ANNALS_{name.upper()}" for name in Settings.model_fields}
    variables = {name for each in OWN.values() for name in each["environment"]}
    secrets = {name.upper() for each in OWN.values() for name in each.get("secrets", [])}
    refuse(sorted((variables | secrets) - known))


def test_database_server_is_tuned_as_the_embedded_one() -> None:
    program, *options = SERVICES[POSTGRES]["command"]
    assert program == "postgres"
    given = dict(each.removeprefix("-c").split("=", 1) for each in options)
    assert given == {name: SERVER_SETTINGS[name] for name in given}


def test_database_is_created_as_the_embedded_one() -> None:
    given = set(SERVICES[POSTGRES]["environment"]["POSTGRES_INITDB_ARGS"].split())
    assert given == {*INITDB_ARGUMENTS} - {"--username=postgres", "--no-instructions"}


def create_secrets(folder: Path, *arguments: str) -> dict[str, str]:
    script = REPOSITORY / "deploy" / "create-secrets.sh"
    subprocess.run([str(script), str(folder), *arguments], check=True, capture_output=True)
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_script_creates_each_secret_once(tmp_path: Path) -> None:
    created = create_secrets(tmp_path / "secrets")
    assert created.keys() == COMPOSE["secrets"].keys()
    assert create_secrets(tmp_path / "secrets") == created


def test_script_adds_a_missing_secret_and_changes_no_other(tmp_path: Path) -> None:
    created = create_secrets(tmp_path / "secrets")
    (tmp_path / "secrets" / "annals_sender_url").unlink()
    again = create_secrets(tmp_path / "secrets")
    assert {name for name in created if created[name] != again[name]} == {"annals_sender_url"}


def test_secrets_have_passwords_of_their_own(tmp_path: Path) -> None:
    created = create_secrets(tmp_path / "secrets", "db.example:5433")
    urls = [text for name, text in created.items() if name.endswith("_url")]
    assert all("@db.example:5433/" in url for url in urls)
    passwords = {url.split("@")[0].rpartition(":")[2] for url in urls}
    assert len(passwords) == len(urls)
    assert all(len(each) == 32 for each in passwords)


def test_containers_can_read_the_secrets_and_other_accounts_cannot(tmp_path: Path) -> None:
    create_secrets(tmp_path / "secrets")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()}
    assert modes == {0o444}
