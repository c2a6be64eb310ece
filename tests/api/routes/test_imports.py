"""Imports over HTTP: upload, choose fields, preview, start, correct failed rows, undo."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import httpx
import psycopg
import pytest

from commands.importing.commands import ImportCommands
from commands.importing.files import PART_BYTES
from commands.jobs.requests import JobCommands
from eventlog.clock import local_time
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from runtime.composition import new_id
from runtime.housekeeping import drop_expired_imports
from tests.support.api_server import ApiWorkspace, after
from tests.support.databases import Urls
from tests.support.waiting import wait_until

CSV = {"Content-Type": "text/csv"}

CUSTOMERS = """Organisation,Type,Owner,Sector,Contact Person,E-Mail
Acme Ltd,Customer,,Retail,Ada Lovelace,ada@acme.example
Acme Ltd,Customer,,Retail,Grace Hopper,grace@acme.example
Beta Inc,Partner,,,,
"""


def upload(
    api_workspace: ApiWorkspace, content: str | bytes, kind: str = "accounts", **query: Any
) -> Any:
    """Upload a file; return the import."""
    answer = api_workspace.client().post(
        "/api/imports", params={"kind": kind, **query}, content=content, headers=CSV
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


def change(api_workspace: ApiWorkspace, made: Any, **changes: Any) -> Any:
    answer = api_workspace.client().patch(f"/api/imports/{made['id']}", json=changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def preview(api_workspace: ApiWorkspace, made: Any, **query: Any) -> Any:
    answer = api_workspace.client().get(f"/api/imports/{made['id']}/preview", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def run(api_workspace: ApiWorkspace, made: Any) -> Any:
    """Start the import; return its job when it has ended."""
    return wait_for_job(
        api_workspace, api_workspace.client().post(f"/api/imports/{made['id']}/start")
    )


def wait_for_job(api_workspace: ApiWorkspace, accepted: httpx.Response) -> Any:
    """Wait until the job has ended and the read tables are up to date; return the job."""
    assert accepted.status_code == 202, accepted.text
    job: dict[str, Any] = {}

    def has_ended() -> bool:
        answer = api_workspace.client().get(accepted.headers["Location"], headers=after(accepted))
        job.update(answer.json())
        return answer.status_code == 200 and bool(job["endedAt"])

    wait_until(has_ended, "the job has ended")
    with api_workspace.api.writing.pool.connection() as connection:
        row = connection.execute("SELECT readable_position()").fetchone()
    assert row is not None
    api_workspace.api.wait_until_projected(row[0])
    return job


def import_file(
    api_workspace: ApiWorkspace, content: str, kind: str = "accounts", **changes: Any
) -> Any:
    """Upload, change, start; return the job when it has ended."""
    made = upload(api_workspace, content, kind)
    if changes:
        change(api_workspace, made, **changes)
    return {**run(api_workspace, made), "importId": made["id"]}


def list_items(api_workspace: ApiWorkspace, plural: str = "accounts") -> list[dict[str, Any]]:
    query: dict[str, Any] = {"sortBy": "created_at", "sortOrder": "asc", "pageSize": 500}
    found: list[dict[str, Any]] = (
        api_workspace.client().get(f"/api/{plural}", params=query).json()["items"]
    )
    return found


def read_failed_rows(api_workspace: ApiWorkspace, import_id: str) -> list[dict[str, str]]:
    answer = api_workspace.client().get(f"/api/imports/{import_id}/failed.csv")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


def as_csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def counts(job: Any) -> tuple[int, int, int, int]:
    """Return the numbers of rows created, updated, skipped and failed."""
    done = job["counts"]
    return done["created"], done["updated"], done["skipped"], job["failed"]


def test_fields_are_proposed_by_name_and_values(api_workspace: ApiWorkspace) -> None:
    made = upload(api_workspace, CUSTOMERS, fileName="customers.csv")
    assert (made["rows"], made["encoding"], made["delimiter"]) == (3, "utf-8", ",")
    assert made["fileName"] == "customers.csv"
    assert {each["name"]: each["field"] for each in made["columns"]} == {
        "Organisation": "company",
        "Type": "type",
        "Owner": "assignedTo",
        "Sector": "customFields.Sector",
        "Contact Person": "contactName",
        "E-Mail": "contactEmail",
    }
    assert made["columns"][0]["examples"] == ["Acme Ltd", "Beta Inc"]


def test_rows_of_one_company_are_one_account_with_several_contacts(
    api_workspace: ApiWorkspace,
) -> None:
    job = import_file(api_workspace, CUSTOMERS, dedupeBy=["company"])
    assert counts(job) == (3, 0, 0, 0)
    assert (job["status"], job["processed"], job["total"]) == ("completed", 3, 3)
    acme, beta = list_items(api_workspace)
    assert (acme["company"], acme["customFields"]) == ("Acme Ltd", {"Sector": "Retail"})
    assert [each["name"] for each in acme["contacts"]] == ["Ada Lovelace", "Grace Hopper"]
    assert (beta["company"], beta["contacts"]) == ("Beta Inc", [])


def test_preview_counts_what_the_import_does(api_workspace: ApiWorkspace) -> None:
    import_file(api_workspace, CUSTOMERS, dedupeBy=["company"])
    rows = CUSTOMERS + "Gamma,Sponsor,,,,\nBeta Inc,Partner,,,Alan,alan@beta.example\nDelta,,,,,\n"
    made = change(api_workspace, upload(api_workspace, rows), dedupeBy=["company"])
    before = api_workspace.client().get("/api/accounts").json()["pagination"]["totalItems"]
    found = preview(api_workspace, made)
    assert found["counts"] == {"create": 1, "update": 0, "skip": 3, "fail": 2}
    assert found["errors"] == {"invalid_value": 1, "missing_value": 1}
    assert (found["rows"], found["total"], found["isComplete"]) == (6, 6, True)
    assert [each["result"] for each in found["firstRows"]] == [
        "skip", "skip", "skip", "fail", "create", "fail",
    ]  # fmt: skip
    assert api_workspace.client().get("/api/accounts").json()["pagination"]["totalItems"] == before
    assert counts(run(api_workspace, made)) == (1, 0, 3, 2)


def test_preview_of_the_first_rows_is_incomplete(api_workspace: ApiWorkspace) -> None:
    made = upload(api_workspace, CUSTOMERS)
    found = preview(api_workspace, made, rows=1)
    assert (found["rows"], found["total"], found["isComplete"]) == (1, 3, False)


def test_update_sets_the_fields_for_which_the_row_has_a_value(api_workspace: ApiWorkspace) -> None:
    import_file(
        api_workspace, "company,type,priority,city\nAcme,customer,high,Oslo\n", dedupeBy=["company"]
    )
    rows = "company,type,priority,status,city,zip\nACME,,,on hold,,0150\nNew,partner,,,,\n"
    job = import_file(
        api_workspace, rows, dedupeBy=["company"], mode="update", defaults={"type": "investor"}
    )
    assert counts(job) == (1, 1, 0, 0)
    acme, new = list_items(api_workspace)
    assert (acme["company"], acme["type"]) == ("ACME", "customer")
    assert (acme["priority"], acme["status"]) == ("high", "on_hold")
    assert acme["customFields"] == {"city": "Oslo", "zip": "0150"}
    assert new["type"] == "partner"
    again = import_file(
        api_workspace, rows, dedupeBy=["company"], mode="update", defaults={"type": "investor"}
    )
    assert counts(again) == (0, 0, 2, 0)
    assert [each["version"] for each in list_items(api_workspace)] == [
        each["version"] for each in (acme, new)
    ]


def test_update_changes_contacts(api_workspace: ApiWorkspace) -> None:
    head = "company,type,contactName,contactEmail,contactPhone\n"
    import_file(api_workspace, head + "Acme,customer,Ada,ada@acme.example,\n", dedupeBy=["company"])
    rows = head + "Acme,,Ada L,ADA@acme.example,+47 22 33 44\nAcme,,Bob,,\n"
    assert counts(import_file(api_workspace, rows, dedupeBy=["company"], mode="update")) == (
        1,
        1,
        0,
        0,
    )
    (acme,) = list_items(api_workspace)
    assert [(each["name"], each["phone"]) for each in acme["contacts"]] == [
        ("Ada L", "+47 22 33 44"), ("Bob", None),
    ]  # fmt: skip
    assert counts(import_file(api_workspace, rows, dedupeBy=["company"])) == (0, 0, 2, 0)


def test_create_creates_another_record(api_workspace: ApiWorkspace) -> None:
    rows = "company,type\nAcme,customer\nAcme,customer\n"
    for _ in range(2):
        assert counts(import_file(api_workspace, rows, dedupeBy=["company"], mode="create")) == (
            1,
            0,
            1,
            0,
        )
    assert counts(import_file(api_workspace, rows)) == (2, 0, 0, 0)
    assert len(list_items(api_workspace)) == 4


def test_first_and_last_name_are_joined(api_workspace: ApiWorkspace) -> None:
    api_workspace.account(company="Acme")
    rows = "First Name,Surname,Company,Mail\nAda,Lovelace,Acme,ada@acme.example\n"
    made = upload(api_workspace, rows, "contacts")
    assert [each["field"] for each in made["columns"]] == [
        "firstName", "lastName", "accountId", "email",
    ]  # fmt: skip
    assert counts(run(api_workspace, made)) == (1, 0, 0, 0)
    assert list_items(api_workspace, "contacts")[0]["name"] == "Ada Lovelace"


def test_failed_rows_are_corrected_and_imported_once(api_workspace: ApiWorkspace) -> None:
    rows = (
        "company,type,dealValue,note\nAcme,customer,5,'=1+1\nOdd,sponsor,,=2\nPoor,customer,-5,x\n"
    )
    job = import_file(api_workspace, rows, dedupeBy=["company"])
    assert counts(job) == (1, 0, 0, 2)
    cells = [(each["row"], each["column"], each["value"]) for each in job["errors"]]
    assert cells == [(3, "type", "sponsor"), (4, "dealValue", "-5")]
    assert {each["code"] for each in job["errors"]} == {"invalid_value"}
    odd, poor = read_failed_rows(api_workspace, job["importId"])
    assert (odd["company"], odd["note"], odd["annals:row"]) == ("Odd", "'=2", "3")
    assert (poor["annals:code"], poor["dealValue"]) == ("invalid_value", "'-5")
    assert "sponsor" not in odd["annals:error"]
    assert odd["annals:error"].startswith("type: The value is none of")

    acme = odd | {"company": "Acme again", "type": "customer", "annals:row": "2"}
    corrected = as_csv([acme, odd | {"type": "partner"}, poor, odd | {"type": "investor"}])
    path = f"/api/imports/{job['importId']}"
    second = wait_for_job(
        api_workspace,
        api_workspace.client().post(f"{path}/corrections", content=corrected, headers=CSV),
    )
    assert counts(second) == (1, 0, 2, 1)
    assert [each["company"] for each in list_items(api_workspace)] == ["Acme", "Odd"]
    assert list_items(api_workspace)[1]["customFields"] == {"note": "=2"}
    assert [each["company"] for each in read_failed_rows(api_workspace, job["importId"])] == [
        "Poor"
    ]

    last = as_csv([poor | {"dealValue": "5"}])
    third = wait_for_job(
        api_workspace, api_workspace.client().post(f"{path}/corrections", content=last, headers=CSV)
    )
    assert counts(third) == (1, 0, 0, 0)
    assert read_failed_rows(api_workspace, job["importId"]) == []
    refused = api_workspace.client().post(f"{path}/corrections", content=last, headers=CSV)
    assert (refused.status_code, refused.json()["code"]) == (409, "E5042")
    assert [each["round"] for each in api_workspace.client().get(path).json()["rounds"]] == [
        1,
        2,
        3,
    ]


def test_one_undo_reverts_all_rounds(api_workspace: ApiWorkspace) -> None:
    rows = "company,type,contactName\nAcme,customer,Ada\nAcme,customer,Bob\nOdd,sponsor,Eve\n"
    job = import_file(api_workspace, rows, dedupeBy=["company"])
    (odd,) = read_failed_rows(api_workspace, job["importId"])
    corrected = as_csv([odd | {"type": "partner"}])
    accepted = api_workspace.client().post(
        f"/api/imports/{job['importId']}/corrections", content=corrected, headers=CSV
    )
    wait_for_job(api_workspace, accepted)
    assert accepted.headers["Annals-Command"] == accepted.json()["commandId"] == job["importId"]
    assert len(list_items(api_workspace)) == 2
    undone = api_workspace.client().post("/api/undo", json={"commandId": job["importId"]})
    assert undone.status_code in (200, 202), undone.text
    if undone.status_code == 202:
        wait_for_job(api_workspace, undone)
    api_workspace.api.wait_until_projected(int(undone.headers["Annals-Position"]))
    assert list_items(api_workspace) == list_items(api_workspace, "contacts") == []


def test_dates_of_corrections_are_read_like_those_of_the_file(api_workspace: ApiWorkspace) -> None:
    rows = "company,type,nextActionDate\nA,partner,13/2/2017\nB,sponsor,1/2/2017\n"
    job = import_file(api_workspace, rows)
    (bad,) = read_failed_rows(api_workspace, job["importId"])
    corrected = as_csv([bad | {"type": "partner"}])
    path = f"/api/imports/{job['importId']}/corrections"
    wait_for_job(api_workspace, api_workspace.client().post(path, content=corrected, headers=CSV))
    assert [each["nextActionDate"] for each in list_items(api_workspace)] == [
        "2017-02-13",
        "2017-02-01",
    ]


def test_issues_are_listed_page_by_page(api_workspace: ApiWorkspace) -> None:
    job = import_file(
        api_workspace, "company,type,owner\nA,partner,Stranger\nB,sponsor,\nC,partner,\n"
    )
    path = f"/api/imports/{job['importId']}/issues"
    first = api_workspace.client().get(path, params={"pageSize": 1}).json()
    second = api_workspace.client().get(path, params={"cursor": first["nextCursor"]}).json()
    found = [*first["items"], *second["items"]]
    assert [(each["row"], each["severity"], each["column"], each["code"]) for each in found] == [
        (2, "warning", "owner", "unknown_reference"), (3, "error", "type", "invalid_value"),
    ]  # fmt: skip
    assert second["nextCursor"] is None
    assert job["counts"]["warnings"] == 1


def test_mapping_is_changed_column_by_column(api_workspace: ApiWorkspace) -> None:
    made = upload(api_workspace, "Firm,Kind,Secret\nAcme,customer,x\n")
    changed = change(api_workspace, made, mapping={"Secret": "", "Kind": "customFields.kind"})
    assert {each["name"]: each["field"] for each in changed["columns"]} == {
        "Firm": "company", "Kind": "customFields.kind", "Secret": "",
    }  # fmt: skip
    back = change(api_workspace, made, mapping={"Kind": None}, defaults={"priority": "low"})
    assert back["columns"][1]["field"] == "type"
    run(api_workspace, made)
    (acme,) = list_items(api_workspace)
    assert (acme["type"], acme["priority"], acme["customFields"]) == ("customer", "low", {})


def test_stale_change_is_refused(api_workspace: ApiWorkspace) -> None:
    made = upload(api_workspace, CUSTOMERS)
    path = f"/api/imports/{made['id']}"
    tag = api_workspace.client().get(path).headers["ETag"]
    change(api_workspace, made, mode="update")
    stale = api_workspace.client().patch(path, json={"mode": "skip"}, headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "E5008")
    assert api_workspace.client().get(path).json()["mode"] == "update"


def test_file_of_a_form_is_read_in_another_encoding(api_workspace: ApiWorkspace) -> None:
    content = "company;type\nŽofie Dvořáková;customer\n".encode("cp1250")
    answer = api_workspace.client().post(
        "/api/imports", params={"kind": "accounts"}, files={"file": ("../firmy.csv", content)}
    )
    made = answer.json()
    assert (made["fileName"], made["encoding"], made["delimiter"]) == ("firmy.csv", "cp1252", ";")
    right = change(api_workspace, made, encoding="cp1250")
    assert (right["encoding"], right["columns"][0]["examples"]) == ("cp1250", ["Žofie Dvořáková"])
    run(api_workspace, made)
    assert list_items(api_workspace)[0]["company"] == "Žofie Dvořáková"


@pytest.mark.parametrize(
    ("content", "query", "status", "code"),
    [
        (b"", {}, 422, "E2060"),
        (b"\n\n", {}, 422, "E2060"),
        (b"a,a\n1,2\n", {}, 422, "E2062"),
        (b'a,"b\n1,2\n', {}, 422, "E2062"),
        (b"company,x\n" + b"y" * 140_000 + b",1\n", {}, 422, "E2062"),
        (b"company\n\xff\xfe\n", {"encoding": "utf-8"}, 422, "E2063"),
        (b"company\n", {"encoding": "utf-7"}, 422, "E2063"),
        (b"company\n", {"encoding": "no-such"}, 422, "E2063"),
        ((",".join(f"c{n}" for n in range(201)) + "\n").encode(), {}, 413, "E2061"),
        (b"company\n", {"kind": "keys"}, 400, "E2031"),
    ],
)
def test_file_that_is_no_table_is_refused_with_a_code(
    api_workspace: ApiWorkspace, content: bytes, query: dict[str, str], status: int, code: str
) -> None:
    answer = api_workspace.client().post(
        "/api/imports", params={"kind": "accounts", **query}, content=content, headers=CSV
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert api_workspace.client().get("/api/imports").json()["items"] == []


def test_form_without_file_and_other_media_types_are_refused(api_workspace: ApiWorkspace) -> None:
    client, query = api_workspace.client(), {"kind": "accounts"}
    form = client.post("/api/imports", params=query, files={"other": ("x", b"company\n")})
    assert (form.status_code, form.json()["code"]) == (400, "E2066")
    broken = client.post(
        "/api/imports",
        params=query,
        content=b"no form",
        headers={"Content-Type": "multipart/form-data"},
    )
    assert (broken.status_code, broken.json()["code"]) == (400, "E2066")
    other = client.post("/api/imports", params=query, json={})
    assert (other.status_code, other.json()["code"]) == (415, "E2025")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mapping": {"Nowhere": "company"}}, "E2064"),
        ({"mapping": {"Sector": "surname"}}, "E2064"),
        ({"mapping": {"Sector": "company"}}, "E2064"),
        ({"dedupeBy": ["nextAction"]}, "E2064"),
        ({"mode": "merge"}, "E2006"),
        ({"surprise": 1}, "E2005"),
    ],
)
def test_invalid_options_are_422(
    api_workspace: ApiWorkspace, changes: dict[str, Any], code: str
) -> None:
    made = upload(api_workspace, CUSTOMERS)
    answer = api_workspace.client().patch(f"/api/imports/{made['id']}", json=changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


def test_start_is_repeated_by_its_idempotency_key_only(api_workspace: ApiWorkspace) -> None:
    made = upload(api_workspace, CUSTOMERS)
    path = f"/api/imports/{made['id']}"
    key = {"Idempotency-Key": "start"}
    first = api_workspace.client().post(f"{path}/start", headers=key)
    again = api_workspace.client().post(f"{path}/start", headers=key)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    refused = api_workspace.client().post(f"{path}/start")
    assert (refused.status_code, refused.json()["code"]) == (409, "E5041")
    wait_for_job(api_workspace, first)
    late = api_workspace.client().patch(path, json={"mode": "update"})
    assert (late.status_code, late.json()["code"]) == (409, "E5041")
    assert api_workspace.client().get(path).json()["job"]["status"] == "completed"


def test_same_file_with_the_same_key_is_uploaded_once(api_workspace: ApiWorkspace) -> None:
    def post(content: str) -> httpx.Response:
        return api_workspace.client().post(
            "/api/imports",
            params={"kind": "accounts"},
            content=content,
            headers={**CSV, "Idempotency-Key": "file"},
        )

    first, again, other = post(CUSTOMERS), post(CUSTOMERS), post(CUSTOMERS + "x")
    assert again.content == first.content
    assert (other.status_code, other.json()["code"]) == (422, "E2036")
    kept = api_workspace.client().get("/api/imports").json()["items"]
    assert [each["id"] for each in kept] == [first.json()["id"]]


def test_deleted_import_is_404_and_its_records_remain(api_workspace: ApiWorkspace) -> None:
    job = import_file(api_workspace, CUSTOMERS)
    path = f"/api/imports/{job['importId']}"
    assert api_workspace.client().delete(path).status_code == 204
    for answer in (
        api_workspace.client().get(path),
        api_workspace.client().get(f"{path}/failed.csv"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "E5002")
    assert len(list_items(api_workspace)) == 3


def test_import_is_invisible_to_another_workspace(api_workspace: ApiWorkspace) -> None:
    job = import_file(api_workspace, "company,type\nAcme,customer\nOdd,sponsor\n")
    path = f"/api/imports/{job['importId']}"
    other = api_workspace.api.new_workspace().client()
    answers = [
        *(other.get(path + rest) for rest in ("", "/preview", "/issues", "/failed.csv")),
        *(
            other.post(path + rest, content=b"x", headers=CSV)
            for rest in ("/start", "/corrections")
        ),
        other.patch(path, json={"mode": "skip"}),
        other.delete(path),
    ]
    assert {each.status_code for each in answers} == {404}
    assert other.get("/api/imports").json()["items"] == []
    url, workspace = (
        str(api_workspace.api.settings.app_url),
        api_workspace.api.new_workspace().workspace_id,
    )
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('annals.workspace_id', %s, true)", (str(workspace),))
        for table in ("imports", "import_files", "import_parts", "import_failures"):
            assert connection.execute(f"SELECT FROM {table}").fetchall() == []


def test_import_requires_permission_to_write_the_kind(api_workspace: ApiWorkspace) -> None:
    for role, kind in (("member", "members"), ("read-only", "accounts")):
        answer = api_workspace.client(role).post(
            "/api/imports", params={"kind": kind}, content=b"name\nAda\n", headers=CSV
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "E1008")


def test_file_of_many_parts_is_read_completely(api_workspace: ApiWorkspace) -> None:
    filler = "ä" * 1_000
    n = 4 * PART_BYTES // len(filler.encode()) + 7
    rows = "\n".join(f'Firm {number},customer,"a\n{filler}"' for number in range(n))
    made = upload(api_workspace, f"company,type,note\n{rows}\n")
    assert (made["rows"], made["encoding"]) == (n, "utf-8")
    job = run(api_workspace, made)
    assert counts(job) == (n, 0, 0, 0)
    first = list_items(api_workspace)[0]
    assert (first["company"], first["customFields"]["note"]) == ("Firm 0", f"a\n{filler}")


def test_expired_imports_are_deleted_with_their_files(
    urls: Urls, log: EventLog, scope: Scope, database: Connection
) -> None:
    jobs = JobCommands(log, clock=local_time, new_id=new_id)
    imports = ImportCommands(log, jobs, clock=local_time, new_id=new_id)
    for _ in range(2):
        import_id = imports.begin_upload(scope, "members", "rows.csv")
        imports.add_parts(scope, import_id, 1, 0, [b"name\nAda\n"])
    database.execute(
        "UPDATE imports SET handed_in_at = now() - interval '2 hours' WHERE id = %s", (import_id,)
    )
    assert asyncio.run(drop_expired_imports(urls.app, 7_200 + 60)) == 0
    assert asyncio.run(drop_expired_imports(urls.app, 3_600)) == 1
    for table in ("imports", "import_files", "import_parts"):
        assert len(database.execute(f"SELECT FROM {table}").fetchall()) == 1
