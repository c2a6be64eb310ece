"""Settings from variables and from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from runtime.settings import Settings
from server.processes.supervisor import child_environment

URL = "postgresql://annals_app:secret@127.0.0.1/annals"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets that ANNALS_SECRETS_DIR names."""
    monkeypatch.setenv("ANNALS_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_file_sets_what_its_name_says(folder: Path) -> None:
    (folder / "annals_app_url").write_text(f"{URL}\n", "utf-8")
    (folder / "annals_port").write_text("9000", "utf-8")
    settings = Settings()
    assert (settings.app_url, settings.port) == (URL, 9_000)


def test_variable_has_precedence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "annals_metrics_token").write_text("of the file", "utf-8")
    monkeypatch.setenv("ANNALS_METRICS_TOKEN", "of the variable")
    assert Settings().metrics_token == "of the variable"


def test_empty_file_sets_nothing(folder: Path) -> None:
    """An empty token would open /metrics to a request with an empty one."""
    (folder / "annals_metrics_token").write_text("\n", "utf-8")
    assert Settings().metrics_token is None


def test_other_files_are_ignored(folder: Path) -> None:
    (folder / "postgres_password").write_text("secret", "utf-8")
    assert Settings().app_url is None


def test_missing_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNALS_SECRETS_DIR", "/nowhere/secrets")
    with pytest.raises(ValidationError, match="there is no folder /nowhere/secrets"):
        Settings()


def test_child_of_the_supervisor_cannot_read_the_urls_of_others(folder: Path) -> None:
    for name in ("owner", "app", "projector", "sender"):
        (folder / f"annals_{name}_url").write_text(URL.replace("app", name), "utf-8")
    environment = child_environment(Settings(), "sender_url")
    assert {name for name in environment if name.endswith("_URL") and "ANNALS" in name} >= {
        "ANNALS_SENDER_URL"
    }
    assert "ANNALS_SECRETS_DIR" not in environment
    assert not environment.keys() & {
        *("ANNALS_OWNER_URL", "ANNALS_APP_URL", "ANNALS_PROJECTOR_URL"),
    }
