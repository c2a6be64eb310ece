"""Imports: every row has one outcome, is recorded once, and can be dated in the past."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from commands.entities import EntityCommands
from commands.importing.cells import DateOrder
from commands.importing.commands import ImportCommands
from commands.importing.files import open_table
from commands.importing.issues import ImportRefused
from commands.importing.mapping import DateOrders, Mode
from commands.jobs.requests import JobCommands
from commands.jobs.worker import TRY_CLAIM
from commands.loaded import LoadedEntities
from domain.account import Account
from domain.member import Member
from eventlog.clock import local_time
from eventlog.connections import Connection, follow_connection, write_pool
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime.composition import new_id, open_writing
from runtime.settings import REPOSITORY
from server.cli import CommandError
from server.cli.local.database import catch_up
from server.cli.local.importing import known_values, upload_file, write_report
from server.postgres.embedded import Cluster, prepare_database
from tests.support.databases import Urls
from tests.support.imports import Importer, errors, warnings
from tests.support.waiting import wait_until

DEALS = {
    "mapping": {
        "deal": "name",
        "agent": "assignedTo",
        "client": "accountId",
        "stage": "stage",
        "engaged": "engagedOn",
        "closed": "closedOn",
        "amount": "value",
    },
    "dedupe_by": ("name",),
}
DEAL_ROWS = """deal,agent,client,stage,engaged,closed,amount
D1,Ada Lovelace,Acme Ltd,Won,10/20/2016,3/1/2017,1054
D2,Ada Lovelace,Acme Ltd,Lost,5/2/2017,7/15/2017,0
D3,Grace Hopper,Beta Inc,Engaging,6/30/2017,,
D4,Grace Hopper,,Prospecting,,,
"""


LONG_AGO = datetime(2016, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Urls:
    """One database for all of these tests, each with its own workspace."""
    made = prepare_database(cluster, "imports", template=template)
    return Urls(made.owner, made.app, made.projector, cluster.url("postgres", "imports"))


@pytest.fixture
def populated(importer: Importer, commands: EntityCommands, scope: Scope) -> Importer:
    """An importer into a workspace with two members and two accounts."""
    for name in ("Ada Lovelace", "Grace Hopper"):
        commands.create(scope, Member, {"name": name}, occurred_at=LONG_AGO)
    for company in ("Acme Ltd", "Beta Inc"):
        fields = {"company": company, "type": "customer"}
        commands.create(scope, Account, fields, occurred_at=LONG_AGO)
    return importer


def count_events(database: Connection, workspace: UUID) -> int:
    row = database.execute(
        "SELECT count(*) FROM events WHERE workspace_id = %s AND topic NOT LIKE 'job.%%'",
        (workspace,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_unmapped_columns_become_custom_fields(importer: Importer) -> None:
    rows = "firm,Sector,code,note\n Acme Ltd ,Retail,007,\nBeta Inc,,8,'=1+1\n"
    result = importer.run(
        "accounts", rows, mapping={"firm": "company"}, defaults={"type": "Customer"}
    )
    assert (result.created, result.skipped, result.failed) == (2, 0, 0)
    acme, beta = importer.items("accounts")
    assert (acme["company"], acme["type"]) == ("Acme Ltd", "customer")
    assert acme["customFields"] == {"Sector": "Retail", "code": "007"}
    assert beta["customFields"] == {"code": "8", "note": "=1+1"}


def test_columns_can_be_left_out_and_fields_have_defaults(importer: Importer) -> None:
    rows = "company,secret,status\nAcme,x,\nBeta,y,On Hold\n"
    options = {"mapping": {"secret": ""}, "defaults": {"type": "partner", "status": "active"}}
    importer.run("accounts", rows, **options)
    assert [(each["status"], each["customFields"]) for each in importer.items("accounts")] == [
        ("active", {}),
        ("on_hold", {}),
    ]


def test_bad_rows_are_reported_and_the_others_imported(importer: Importer) -> None:
    rows = (
        "company,type,nextActionDate,dealValue\n"
        "Good,customer,2017-03-01,\"$1,054.50\"\n"
        ",customer,,\n"
        "Odd,sponsor,,\n"
        "Late,customer,2017-02-30,\n"
        "Poor,customer,,-5\n"
        "Wide,customer,,,surplus\n"
        "Fine,investor,,\n"
        "Wrong,investor,,7\n"
    )  # fmt: skip
    result = importer.run("accounts", rows)
    assert (result.rows, result.created, result.failed) == (8, 2, 6)
    assert errors(result) == [
        (3, "company", "", "missing_value"),
        (4, "type", "sponsor", "invalid_value"),
        (5, "nextActionDate", "2017-02-30", "invalid_value"),
        (6, "dealValue", "-5", "invalid_value"),
        (7, "", "surplus", "too_many_cells"),
        (9, "dealValue", "7", "invalid_value"),
    ]
    assert "none of investor, customer, partner" in result.issues[1].message
    assert [each["company"] for each in importer.items("accounts")] == ["Good", "Fine"]
    assert importer.items("accounts")[0]["dealValue"] == "1054.50"


def test_a_second_import_records_nothing(populated: Importer, database: Connection) -> None:
    first = populated.run("opportunities", DEAL_ROWS, **DEALS)
    assert first.created == 4
    events = count_events(database, populated.workspace)
    second = populated.run("opportunities", DEAL_ROWS, **DEALS)
    assert (second.created, second.skipped, second.failed) == (0, 4, 0)
    assert count_events(database, populated.workspace) == events


def test_keys_ignore_case_and_spaces(importer: Importer) -> None:
    rows = "company,city\nAcme  Ltd,Oslo\nACME ltd,oslo\nAcme Ltd,Riga\n"
    options = {
        "dedupe_by": ("company", "customFields.city"),
        "defaults": {"type": "partner"},
    }
    result = importer.run("accounts", rows, **options)
    assert (result.created, result.skipped) == (2, 1)
    again = importer.run("accounts", rows, **options)
    assert (again.created, again.skipped) == (0, 3)


def test_row_without_key_is_reported(importer: Importer) -> None:
    result = importer.run("members", "name,email\nAda,\n", dedupe_by=("email",))
    assert errors(result) == [(2, "", "", "no_key")]


def test_deleted_members_do_not_match(
    importer: Importer, commands: EntityCommands, scope: Scope
) -> None:
    left = commands.create(scope, Member, {"name": "Ada"})
    commands.delete(scope, Member, left.entity.id)
    assert importer.run("members", "name\nAda\n", dedupe_by=("name",)).created == 1


def test_explicit_corrections_are_reported_row_by_row(importer: Importer) -> None:
    rows = "company,type,sector\nAcme,customer,technolgy\nBeta,customer,retail\n"
    corrections = {"sector": {"technolgy": "technology"}}
    result = importer.run("accounts", rows, corrections=corrections)
    assert warnings(result) == [(2, "sector", "technolgy", "corrected")]
    assert importer.items("accounts")[0]["customFields"] == {"sector": "technology"}


def test_values_are_corrected_by_a_list_of_known_values(importer: Importer, tmp_path: Path) -> None:
    products = tmp_path / "products.csv"
    products.write_text("product,price\nGTX Pro,4821\nGTX Plus Pro,5482\nMG 500,1\n", "utf-8")
    rows = "name,product\nA,GTX Pro\nB,GTXPro\nC,GTX Plus Prp\nD,MG 501\nE,\n"
    result = importer.run(
        "opportunities", rows, known={"product": known_values(products, "product")}
    )
    assert warnings(result) == [
        (3, "product", "GTXPro", "corrected"),
        (4, "product", "GTX Plus Prp", "corrected"),
        (5, "product", "MG 501", "unknown_value"),
    ]
    made = [each["customFields"].get("product") for each in importer.items("opportunities")]
    assert sorted(filter(None, made)) == ["GTX Plus Pro", "GTX Pro", "GTX Pro", "MG 501"]


def test_references_are_found_by_name(populated: Importer) -> None:
    rows = (
        "deal,agent,client\n"
        "exact,Ada Lovelace,Acme Ltd\n"
        "normalised,ada lovelace,ACME-LTD\n"
        "close,Ada Lovelase,Acme Ltd.\n"
        "unknown,Charles Babbage,Nowhere Ltd\n"
        "missing,,\n"
    )
    mapping = {"deal": "name", "agent": "assignedTo", "client": "accountId"}
    result = populated.run("opportunities", rows, mapping=mapping)
    assert warnings(result) == [
        (4, "agent", "Ada Lovelase", "close_match"),
        (5, "agent", "Charles Babbage", "unknown_reference"),
        (5, "client", "Nowhere Ltd", "unknown_reference"),
        (6, "client", "", "no_account"),
    ]
    found = {
        each["name"]: (each["assignedToName"], each["accountName"])
        for each in populated.items("opportunities")
    }
    ada = ("Ada Lovelace", "Acme Ltd")
    not_found = (None, None)
    assert found == {
        "exact": ada, "normalised": ada, "close": ada, "unknown": not_found, "missing": not_found,
    }  # fmt: skip
    unknown = next(each for each in populated.items("opportunities") if each["name"] == "unknown")
    assert unknown["customFields"] == {"agent": "Charles Babbage", "client": "Nowhere Ltd"}


def test_name_of_two_accounts_is_ambiguous(populated: Importer) -> None:
    populated.run("accounts", "company,type\nAcme Ltd,partner\n")
    result = populated.run("opportunities", "name,accountId\nDeal,Acme Ltd\n")
    assert warnings(result) == [(2, "accountId", "Acme Ltd", "ambiguous_reference")]


def test_contact_without_account_fails(populated: Importer) -> None:
    rows = "name,accountId\nEve,Acme Ltd\nMallory,Nowhere Ltd\nTrent,\n"
    result = populated.run("contacts", rows)
    assert errors(result) == [
        (3, "accountId", "Nowhere Ltd", "unknown_reference"),
        (4, "accountId", "", "no_account"),
    ]
    assert [each["name"] for each in populated.items("contacts")] == ["Eve"]


def test_stage_changes_occur_on_the_dates_of_the_file(populated: Importer, urls: Urls) -> None:
    populated.run("opportunities", DEAL_ROWS, **DEALS)
    stages = populated.page("opportunities")["aggregations"]["byStage"]
    assert {name: (stage["count"], float(stage["value"])) for name, stage in stages.items()} == {
        "won": (1, 1054.0), "lost": (1, 0.0), "engaging": (1, 0.0), "prospecting": (1, 0.0),
    }  # fmt: skip
    with write_pool(urls.app) as pool:
        assert counts_on(populated, pool, 2016, 10, 19) == {}
        assert counts_on(populated, pool, 2016, 10, 20) == {"engaging": 1}
        assert counts_on(populated, pool, 2017, 3, 1) == {"won": 1}
        assert counts_on(populated, pool, 2017, 6, 30) == {"won": 1, "engaging": 2}
        assert counts_on(populated, pool, 2017, 7, 15) == {"won": 1, "lost": 1, "engaging": 1}
        won = populated.pipeline(pool, datetime(2017, 3, 1, tzinfo=UTC))["won"]
    assert won["value"] == "1054.00"


def counts_on(
    importer: Importer, pool: ConnectionPool[Connection], year: int, month: int, day: int
) -> dict[str, int]:
    stages = importer.pipeline(pool, datetime(year, month, day, 23, 59, tzinfo=UTC))
    return {name: stage["count"] for name, stage in stages.items()}


def test_value_of_a_deal_is_set_at_its_close(
    populated: Importer, log: EventLog, scope: Scope
) -> None:
    populated.run("opportunities", DEAL_ROWS, **DEALS)
    won = next(each for each in populated.items("opportunities") if each["name"] == "D1")
    with log.scoped(scope):
        created, updated, moved = log.events.get(UUID(won["id"]))
    assert "value" not in vars(created)["fields"]
    assert vars(updated)["changes"]["value"] == {"before": None, "after": "1054.00"}
    assert (vars(moved)["before"], vars(moved)["after"]) == ("engaging", "won")
    days = [vars(each)["timestamp"].date().isoformat() for each in (created, updated, moved)]
    assert days == ["2016-10-20", "2017-03-01", "2017-03-01"]


def test_events_are_recorded_now_and_occurred_in_the_past(
    populated: Importer, database: Connection
) -> None:
    populated.run("opportunities", DEAL_ROWS, **DEALS)
    row = database.execute(
        """SELECT min(recorded_at) > now() - interval '1 minute', min(occurred_at) FROM events
            WHERE workspace_id = %s AND topic LIKE 'opportunity.%%'""",
        (populated.workspace,),
    ).fetchone()
    assert row is not None
    assert row[0]
    assert row[1] == datetime(2016, 10, 20, tzinfo=UTC)


def test_every_kind_has_occurred_at(importer: Importer) -> None:
    rows = "name,since\nAda,2015-12-10T08:30:00+02:00\n"
    importer.run("members", rows, mapping={"since": "occurredAt"})
    assert importer.items("members")[0]["createdAt"] == "2015-12-10T06:30:00+00:00"


def test_missing_and_impossible_dates_of_deals_are_reported(populated: Importer) -> None:
    rows = (
        "deal,agent,client,stage,engaged,closed,amount\n"
        "no start,,Acme Ltd,won,,3/14/2017,10\n"
        "no end,,Acme Ltd,lost,3/14/2017,,\n"
        "backwards,,Acme Ltd,won,3/14/2017,3/1/2017,10\n"
        "future,,Acme Ltd,engaging,3/14/2150,,\n"
        "no stage,,Acme Ltd,,3/14/2017,,\n"
    )
    result = populated.run("opportunities", rows, **DEALS)
    assert warnings(result) == [
        (2, "engaged", "", "no_engage_date"),
        (3, "closed", "", "no_close_date"),
    ]
    assert errors(result) == [
        (4, "closed", "3/1/2017", "occurred_too_early"),
        (5, "engaged", "2150-03-14", "in_future"),
    ]
    stages = {each["name"]: each["stage"] for each in populated.items("opportunities")}
    assert stages == {"no start": "won", "no end": "lost", "no stage": "engaging"}


@pytest.mark.parametrize(
    ("dates", "given_order", "day", "code"),
    [
        ("1/2/2017 13/2/2017", None, "2017-02-01", None),
        ("1/2/2017 2/13/2017", None, "2017-01-02", None),
        ("1/2/2017 3/4/2017", None, "2017-01-02", "doubtful_dates"),
        ("1/2/2017 3/4/2017", DateOrder.DMY, "2017-02-01", None),
        ("2017-02-01 2017-02-13", None, "2017-02-01", None),
        ("1.2.2017 13.2.2017", None, "2017-02-01", None),
    ],
)
def test_order_of_dates_is_detected(
    importer: Importer, dates: str, given_order: DateOrder | None, day: str, code: str | None
) -> None:
    one, other = dates.split()
    rows = f"company,type,nextActionDate\nA,partner,{one}\nB,partner,{other}\n"
    result = importer.run("accounts", rows, dates=given_order)
    found = {each["company"]: each["nextActionDate"] for each in importer.items("accounts")}
    assert found["A"] == day
    assert [each.code for each in result.issues] == ([code] if code else [])


def test_ambiguous_dates_are_read_like_the_other_columns(populated: Importer) -> None:
    rows = "name,engagedOn,expectedCloseOn\nA,13/2/2017,1/4/2017\nB,13/13/2017,1/4/2017\n"
    result = populated.run("opportunities", rows)
    assert errors(result) == [(3, "engagedOn", "13/13/2017", "invalid_value")]
    assert warnings(result) == []
    assert populated.items("opportunities")[0]["expectedCloseOn"] == "2017-04-01"


def test_a_dry_run_writes_nothing_and_counts_the_same(
    populated: Importer, database: Connection
) -> None:
    rows = DEAL_ROWS + "D1,,,,,,\nD5,,Acme Ltd,sleeping,,,\n"
    before = count_events(database, populated.workspace)
    dry = populated.run("opportunities", rows, **DEALS, dry_run=True)
    assert count_events(database, populated.workspace) == before
    real = populated.run("opportunities", rows, **DEALS)
    assert (dry.created, dry.skipped, dry.failed) == (4, 1, 1)
    assert (real.created, real.skipped, real.failed) == (4, 1, 1)
    assert dry.issues == real.issues
    assert dry.position == 0 < real.position


ROWS_OF_ACCOUNTS = st.lists(
    st.tuples(
        st.sampled_from(["Acme", " ACME", "Beta", "Gamma", ""]),
        st.sampled_from(["customer", "partner", "sponsor", ""]),
        st.sampled_from(["", "low", "high"]),
        st.sampled_from(["", "Ada", "Bob"]),
        st.sampled_from(["", "ada@x.example", "ADA@x.example", "nowhere"]),
    ),
    max_size=12,
)


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(before=ROWS_OF_ACCOUNTS, rows=ROWS_OF_ACCOUNTS, mode=st.sampled_from(list(Mode)))
def test_preview_equals_the_import(
    importer: Importer,
    before: list[tuple[str, ...]],
    rows: list[tuple[str, ...]],
    mode: Mode,
) -> None:
    elsewhere = Importer(importer.settings, uuid4(), importer.folder)
    head = ("company", "type", "priority", "contactName", "contactEmail")
    first, then = (
        "\n".join(",".join(row) for row in (head, *lines)) + "\n" for lines in (before, rows)
    )
    elsewhere.run("accounts", first, dedupe_by=("company",))
    options = {"dedupe_by": ("company",), "mode": mode}
    preview = elsewhere.run("accounts", then, dry_run=True, **options)
    done = elsewhere.run("accounts", then, **options)
    assert replace(done, position=0) == preview
    # A row without the required fields is valid once a later row has created the account.
    if mode is not Mode.CREATE and not done.failed:
        again = elsewhere.run("accounts", then, **options)
        assert (again.created, again.failed) == (0, 0)


def test_batch_is_recorded_without_its_failing_row(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = LoadedEntities.append

    def refuse_beta(entities: LoadedEntities) -> int:
        if any(each.values.get("company") == "Beta" for each in entities.changed):
            raise IntegrityError("taken")
        return append(entities)

    monkeypatch.setattr(LoadedEntities, "append", refuse_beta)
    result = importer.run("accounts", "company,type\nAcme,partner\nBeta,partner\nGamma,partner\n")
    assert (result.created, result.failed) == (2, 1)
    assert errors(result) == [(3, "", "", "not_recorded")]
    assert [each["company"] for each in importer.items("accounts")] == ["Acme", "Gamma"]


def test_row_of_an_account_deleted_meanwhile_fails(
    populated: Importer, commands: EntityCommands, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    catch_up(populated.settings)
    beta = next(each for each in populated.items("accounts") if each["company"] == "Beta Inc")
    lock_accounts = LoadedEntities.lock_accounts

    def delete_first(entities: LoadedEntities, *, shared: Collection[UUID]) -> None:
        monkeypatch.undo()
        commands.delete(scope, Account, UUID(beta["id"]))
        lock_accounts(entities, shared=shared)

    monkeypatch.setattr(LoadedEntities, "lock_accounts", delete_first)
    result = populated.run("opportunities", DEAL_ROWS, **DEALS)
    assert (result.created, result.failed) == (3, 1)
    assert errors(result) == [(4, "client", "Beta Inc", "account_gone")]


def test_interrupted_import_is_finished_before_the_next(importer: Importer) -> None:
    scope = Scope(importer.workspace)
    table = open_table(importer.file("name\nAda\n"))
    with open_writing(importer.settings) as writing:
        jobs = JobCommands(writing.log, clock=local_time, new_id=new_id)
        imports = ImportCommands(writing.log, jobs, clock=local_time, new_id=new_id)
        import_id = imports.begin_upload(scope, "members", "rows.csv")
        size_bytes = upload_file(imports, scope, import_id, 1, table.source)
        file = imports.inspect(scope, import_id, 1, "rows.csv", size_bytes)
        imports.finish_upload(scope, "members", file)
        job_id = imports.start(scope, import_id, DateOrders()).job.id
    with follow_connection(importer.settings.app_url or "", application_name="test") as claims:
        claims.execute(TRY_CLAIM, (f"{importer.workspace} {job_id}",))
        with pytest.raises(CommandError, match="under way"):
            importer.run("members", "name\nGrace\n")
    assert importer.run("members", "name\nGrace\n").created == 1
    assert [each["name"] for each in importer.items("members")] == ["Ada", "Grace"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("name,name\nAda,Ada\n", "more than one column 'name'"),
        ("name,,x\nAda,1,2\n", "Column 2 .* has no name"),
    ],
)
def test_file_that_is_not_a_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(ImportRefused, match=message):
        open_table(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": {"nmae": "name"}}, "no column 'nmae'"),
        ({"mapping": {"name": "surname"}}, "no field 'surname'"),
        ({"mapping": {"other": "name"}}, "'name' and 'other' would both become name"),
        ({"dedupe_by": ("email",)}, "no column becomes it"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(
    importer: Importer, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ImportRefused, match=message):
        importer.run("members", "name,other\nAda,1\n", **options)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiter_is_detected(importer: Importer, delimiter: str) -> None:
    rows = f"name{delimiter}title\nLovelace, Ada{delimiter}Countess\n"
    importer.run("members", rows)
    assert importer.items("members")[0]["title"] == "Countess"


def test_file_that_is_not_utf8_is_read_as_cp1252(importer: Importer) -> None:
    table = open_table(importer.file("name\nJosé Müller\n", encoding="cp1252"))
    assert table.encoding == "cp1252"
    assert list(table.values("name")) == ["José Müller"]


def test_byte_order_mark_and_empty_lines_are_ignored(importer: Importer) -> None:
    table = open_table(importer.file("\ufeffname,title\n\nAda,\n,\nGrace,x\n"))
    assert table.columns == ("name", "title")
    assert [(row.number, row.cells["name"]) for row in table.rows()] == [(3, "Ada"), (5, "Grace")]


def test_report_is_safe_to_open_in_a_spreadsheet(importer: Importer, tmp_path: Path) -> None:
    result = importer.run("accounts", "company,type\nA,=cmd\n")
    write_report(tmp_path / "report.csv", result.issues)
    header, line = (tmp_path / "report.csv").read_text("utf-8").splitlines()
    assert header == "row,severity,column,value,code,message"
    assert line.startswith("2,error,type,'=cmd,invalid_value,")
    write_report(tmp_path / "report.json", result.issues)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))[0]["value"] == "=cmd"


ROWS_OF_A_LONG_FILE = 3_000


def long_file(folder: Path) -> Path:
    path = folder / "long.csv"
    rows = (f"Deal {number},3/14/2017" for number in range(ROWS_OF_A_LONG_FILE))
    path.write_text("\n".join(["name,engagedOn", *rows]) + "\n", "utf-8")
    return path


def test_killed_import_is_completed_by_the_next(
    importer: Importer, urls: Urls, database: Connection, tmp_path: Path
) -> None:
    path = long_file(tmp_path)
    command = [sys.executable, "-P", "-m", "server.cli", "import", "opportunities", str(path)]
    command += ["--dedupe-by", "name", "--workspace", str(importer.workspace)]
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "ANNALS_HOME": str(tmp_path),
        "ANNALS_OWNER_URL": urls.owner,
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PROJECTOR_URL": urls.projector,
    }
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: count_events(database, importer.workspace) > 0, "a batch is written")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    result = importer.run("opportunities", path, dedupe_by=("name",))
    assert result.skipped > 0
    assert result.created + result.skipped == ROWS_OF_A_LONG_FILE
    row = database.execute(
        """SELECT count(*), count(DISTINCT data->'fields'->>'name') FROM events
            WHERE workspace_id = %s AND topic = 'opportunity.created'""",
        (importer.workspace,),
    ).fetchone()
    assert row == (ROWS_OF_A_LONG_FILE, ROWS_OF_A_LONG_FILE)


def test_import_is_one_command_in_the_history(importer: Importer, database: Connection) -> None:
    importer.run("members", "name\nAda\nGrace\n")
    rows = database.execute(
        """SELECT DISTINCT metadata->>'command', metadata->>'commandId', metadata->>'file'
             FROM events WHERE workspace_id = %s AND topic = 'member.created'""",
        (importer.workspace,),
    ).fetchall()
    assert len(rows) == 1
    assert (rows[0][0], rows[0][2]) == ("import", "rows.csv")


def test_import_neither_reads_nor_changes_another_workspace(importer: Importer) -> None:
    elsewhere = Importer(importer.settings, uuid4(), importer.folder)
    elsewhere.run("members", "name\nAda\n", dedupe_by=("name",))
    assert importer.run("members", "name\nAda\n", dedupe_by=("name",)).created == 1
    assert len(elsewhere.items("members")) == 1
