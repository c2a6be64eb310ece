"""deploy/annals.service: its commands, settings, limits of time and hardening."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from runtime.settings import REPOSITORY, Settings
from server.cli.__main__ import app
from server.postgres.processes import ABORT_WAIT_MAX_S, STOP_WAIT_MAX_S
from server.processes.supervisor import CHILD_STOP_MARGIN_S

UNIT_FILE = REPOSITORY / "deploy" / "annals.service"
INSTALLED = "/opt/annals"
CHILDREN = 4  # API, projector, sender and worker
EXPOSURE_MAX = 1.5
HARDENING = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}


def parsed_unit() -> dict[str, dict[str, list[str]]]:
    """Return the values of each directive, by section."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in UNIT_FILE.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found[section][name].append(value)
    return found


SERVICE = parsed_unit()["Service"]


def seconds(name: str) -> float:
    return float(SERVICE[name][0])


def test_command_exists() -> None:
    (command,) = SERVICE["ExecStart"]
    program, subcommand = command.split()
    launcher = REPOSITORY / Path(program).relative_to(INSTALLED)
    assert launcher.stat().st_mode & 0o111
    commands = {
        each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands
    }
    assert subcommand in commands


def test_variables_are_settings() -> None:
    names = {each.partition("=")[0] for each in SERVICE["Environment"]}
    assert names <= {f"ANNALS_{name.upper()}" for name in Settings.model_fields}


def test_secrets_are_credentials_with_names_of_settings() -> None:
    assert "ANNALS_SECRETS_DIR=%d" in SERVICE["Environment"]
    (credential,) = SERVICE["LoadCredential"]
    prefix, folder = credential.split(":")
    guide = (REPOSITORY / "docs/how-to/run-with-systemd.md").read_text("utf-8")
    named = re.findall(rf"{folder}/(\w+)", guide) + re.findall(r"`(\w+_(?:token|url))`", guide)
    assert {"metrics_token", "app_url"} <= {*named}
    # systemd joins the credential's name and the file's with an underscore.
    for name in named:
        assert f"{prefix}_{name}".removeprefix("annals_") in Settings.model_fields


def test_service_stops_before_systemd_kills_it() -> None:
    child_s = Settings.model_fields["shutdown_timeout_s"].default + CHILD_STOP_MARGIN_S
    longest_s = CHILDREN * child_s + STOP_WAIT_MAX_S + 2 * ABORT_WAIT_MAX_S
    assert seconds("TimeoutStopSec") > longest_s
    assert SERVICE["KillMode"] == ["mixed"]


def test_service_restarts_and_is_limited() -> None:
    assert SERVICE["Restart"] == ["on-failure"]
    assert SERVICE["Type"] == ["exec"]  # it does not notify systemd
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= SERVICE.keys()
    connections_max = Settings.model_fields["http_connections_max"].default
    assert seconds("LimitNOFILE") > connections_max


def test_home_is_the_only_folder_that_it_writes() -> None:
    assert "ReadWritePaths" not in SERVICE
    (state,) = SERVICE["StateDirectory"]
    assert f"ANNALS_HOME=/var/lib/{state}" in SERVICE["Environment"]


def test_service_is_hardened() -> None:
    assert {name: SERVICE[name][-1] for name in HARDENING} == HARDENING
    assert SERVICE["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert SERVICE["User"] == ["annals"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as it would be if this repository were installed; skips without systemd."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / UNIT_FILE.name
    path.write_text(UNIT_FILE.read_text("utf-8").replace(INSTALLED, str(REPOSITORY)), "utf-8")
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def test_systemd_accepts_the_unit(unit: Path) -> None:
    result = analyze("verify", str(unit))
    assert (result.returncode, result.stderr) == (0, "")


def test_exposure_is_what_the_guide_says(unit: Path) -> None:
    result = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(unit)
    )
    assert result.returncode == 0, result.stdout
