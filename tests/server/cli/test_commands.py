"""Commands of the command line that work on the home's workspace: keys, projections, import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domain.appointment import Appointment
from domain.member import Member
from eventlog.connections import Connection
from eventlog.scope import Scope
from projections.engine.registry import PROJECTIONS
from runtime import VERSION
from runtime.composition import open_writing
from runtime.home import token_file, write_private
from runtime.settings import Settings
from server.cli import CommandError
from server.cli.local.database import load_home_key
from server.cli.local.demo import bootstrap
from tests.support.command_line import annals, failed
from tests.support.databases import Urls
from tests.support.imports import settings_for
from tests.support.oracle import assert_claims_match_log


@pytest.fixture
def home(urls: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home on the test's database, with a workspace and the token of its first key."""
    settings = settings_for(urls, tmp_path)
    for name in ("home", "owner_url", "app_url", "projector_url"):
        monkeypatch.setenv(f"ANNALS_{name.upper()}", str(getattr(settings, name)))
    write_private(token_file(settings), bootstrap(settings))
    return settings


@pytest.mark.usefixtures("home")
def test_key_is_created_listed_and_revoked() -> None:
    token = annals("keys", "create", "Nightly sync", "--role", "analyst").strip()
    assert token.startswith("annals_")
    listed = {key["name"]: key for key in json.loads(annals("keys", "list", "--json"))}
    assert listed["Nightly sync"]["role"] == "analyst"
    assert token not in annals("keys", "list", "--json")
    annals("keys", "revoke", listed["Nightly sync"]["id"])
    assert "Nightly sync" not in annals("keys", "list")
    annals("operators", "issue", "On call")
    (operator,) = json.loads(annals("operators", "list", "--json"))
    assert (operator["name"], operator["role"]) == ("On call", "operator")
    assert "On call" not in annals("keys", "list"), "an operator key belongs to no workspace"
    annals("operators", "revoke", operator["id"])
    assert "On call" not in annals("operators", "list")


@pytest.mark.usefixtures("home")
def test_key_with_an_unknown_role_is_refused() -> None:
    with pytest.raises(CommandError, match="role: Input should be 'admin'"):
        annals("keys", "create", "x", "--role", "emperor")


@pytest.mark.usefixtures("home")
def test_projections_are_listed_with_their_lag() -> None:
    rows = json.loads(annals("projections", "--json"))
    assert [row["name"] for row in rows] == sorted(PROJECTIONS)
    assert {row["lagEvents"] for row in rows} == {0}
    assert "lag (events)" in annals("projections")


@pytest.mark.usefixtures("home")
def test_import_writes_to_the_workspace_of_the_home(tmp_path: Path) -> None:
    file = tmp_path / "team.csv"
    file.write_text("agent\nAda\nGrace\n", "utf-8")
    arguments = ("import", "members", str(file), "--map", "agent=name", "--dedupe-by", "name")
    assert "2 would be created" in annals(*arguments, "--dry-run")
    assert "1 created" in annals(*arguments, "--limit", "1")
    assert "1 created, 1 skipped" in annals(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("planets", "rows.csv"), "planets cannot be imported; accounts"),
        (("members", "missing.csv"), "missing.csv cannot be read: No such file"),
        (("members", "rows.csv", "--map", "name"), "--map 'name' is not NAME=VALUE"),
        (("members", "rows.csv", "--correct", "a=b"), "is not COLUMN:WRONG=RIGHT"),
        (("members", "rows.csv", "--known", "a=b"), "names FILE.csv:COLUMN"),
        (("members", "rows.csv", "--known", "a=rows.csv:b"), "has no column 'b'"),
    ],
)
def test_invalid_import_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("name\nAda\n", "utf-8")
    with pytest.raises(CommandError, match=message):
        annals("import", *arguments)


def test_import_without_a_workspace_names_the_remedy(home: Settings, tmp_path: Path) -> None:
    token_file(home).unlink()
    (tmp_path / "rows.csv").write_text("name\nAda\n", "utf-8")
    with pytest.raises(CommandError, match="start annals demo or annals up once"):
        annals("import", "members", str(tmp_path / "rows.csv"))


@pytest.mark.usefixtures("home")
def test_lists_and_the_audit_trail_are_exported(tmp_path: Path) -> None:
    file, team = tmp_path / "team.csv", tmp_path / "members.csv"
    file.write_text("name,title\nAda,=CFO\nGrace,\n", "utf-8")
    annals("import", "members", str(file))
    annals("export", "member", "--to", str(team))  # kinds are named in either number
    header, *rows = team.read_text("utf-8").splitlines()
    assert header.startswith("id,name,email,title,")
    assert [row.split(",")[1:4] for row in rows] == [["Grace", "", ""], ["Ada", "", "'=CFO"]]
    entries = annals("export", "audit", "--format", "ndjson").splitlines()
    topics = [json.loads(entry)["topic"] for entry in entries]
    assert topics.count("member.created") == 2
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.usefixtures("home")
def test_export_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"missing.a\.csv cannot be written: No such file"):
        annals("export", "accounts", "--to", str(tmp_path / "missing" / "a.csv"))
    with pytest.raises(CommandError, match="--format is one of csv, ndjson, not xml"):
        annals("export", "accounts", "--format", "xml")


def test_claimed_times_are_corrected_from_the_log(home: Settings, database: Connection) -> None:
    _, key = load_home_key(home)
    with open_writing(home) as writing:
        scope = Scope(key.workspace_id)
        member = writing.commands.create(scope, Member, {"name": "Grace"}).entity.id
        fields = {"title": "x", "memberId": str(member), "startsAt": "2026-02-01T10:00:00Z"}
        writing.commands.create(scope, Appointment, {**fields, "durationMinutes": 30})
    assert annals("mend-claims") == "The claimed times are those of the log.\n"
    database.execute("DELETE FROM claimed_times")
    assert annals("mend-claims") == "1 corrected.\n"
    assert_claims_match_log(database)


def test_damaged_rows_are_named_and_replaced_with_a_reason(
    home: Settings, database: Connection
) -> None:
    assert "accounts: all rows are equal" in annals("verify", "--rows")
    database.execute("UPDATE read.api_keys SET name = 'forged'")
    database.execute("DROP TABLE read.notes CASCADE")
    assert "differ from the log: notes, workspaces." in failed("verify", "--rows")
    with pytest.raises(CommandError, match="--replace needs --reason"):
        annals("rebuild", "notes", "--replace")
    annals("rebuild", "notes", "--replace", "--reason", "dropped by mistake")
    annals("rebuild", "workspaces", "--replace", "--reason", "altered by hand")
    assert annals("verify", "--rows").count("all rows are equal") == len(PROJECTIONS)
    recorded = database.execute(
        "SELECT projection, reason, requested_by <> '' FROM projection_rebuilds WHERE replaces"
        " ORDER BY id"
    ).fetchall()
    assert recorded == [
        ("notes", "dropped by mistake", True),
        ("workspaces", "altered by hand", True),
    ]


def test_command_names_the_damaged_table(home: Settings, database: Connection) -> None:
    database.execute("DROP TABLE read.members CASCADE")
    with open_writing(home) as writing:
        _, key = load_home_key(home)
        writing.commands.create(Scope(key.workspace_id), Member, {"name": "Grace"})
    with pytest.raises(CommandError, match=r"tables of members are damaged: UndefinedTable"):
        annals("export", "accounts")


def test_fault_of_the_log_fails_verify(home: Settings, database: Connection) -> None:
    answer = annals("verify")
    assert "consumed each event of the log exactly once" in answer
    assert "triggers, policies, rights and functions are those of this version" in answer
    database.execute("DELETE FROM projections WHERE name = 'notes'")
    database.execute("GRANT UPDATE ON events TO annals_app")
    output = failed("verify", "--rows")
    assert "notes: it has no checkpoint" in output
    assert "UPDATE to annals_app" in output
    assert "accounts: all rows are equal" in output, "rows are compared nevertheless"


def test_version_is_printed() -> None:
    assert annals("--version") == f"annals {VERSION}\n"
