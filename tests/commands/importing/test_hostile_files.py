"""Files made to stop an import or to exhaust it: every row ends, and every size is limited."""

from __future__ import annotations

import contextlib
import csv
import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.importing import files
from commands.importing.files import (
    BATCH_BYTES,
    COLUMN_NAME_MAX_CHARS,
    LINES_MAX,
    ROW_MAX_CHARS,
    START,
    open_table,
    take_rows,
)
from commands.importing.issues import ImportFault, ImportRefused
from commands.importing.mapping import IMPORTABLE, kind_of
from server.postgres.embedded import Cluster, prepare_database
from tests.support.databases import Urls
from tests.support.imports import Importer, errors

UNPRINTABLE = ["\0", "\x01", "a\0b", "\x7f", "\ufffe", "\u202e", "\U0010ffff", "e\u0301"]
OUT_OF_RANGE = [
    "9" * 400,
    "1e999",
    "-1",
    "NaN",
    "Infinity",
    "9999-12-31",
    "0001-01-01",
    "x" * 25_000,
]
CELLS = st.one_of(
    st.sampled_from([*UNPRINTABLE, *OUT_OF_RANGE]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
COLUMNS = ("company", "email", "dealValue", "nextActionDate", "occurredAt", "Own", "contactEmail")


@pytest.fixture(scope="module")
def urls(cluster: Cluster, template: str) -> Urls:
    """One database for all of these tests, each with its own workspace."""
    made = prepare_database(cluster, "hostile_files", template=template)
    return Urls(made.owner, made.app, made.projector, cluster.url("postgres", "hostile_files"))


def as_csv(*rows: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def refusal_of(path: Path) -> ImportRefused:
    with pytest.raises(ImportRefused) as refused:
        open_table(path)
    return refused.value


def test_row_with_a_nul_fails_and_the_others_are_imported(importer: Importer) -> None:
    result = importer.run("accounts", "company,type,a\nAcme\0,customer,\0\nBeta,customer,1\n")
    assert (result.created, result.failed) == (1, 1)
    assert {(row, value) for row, _, value, _ in errors(result)} == {
        (2, "Acme\ufffd"),
        (2, "\ufffd"),
    }
    # The workspace is not blocked: the next import runs.
    assert importer.run("accounts", "company,type\nGamma,customer\n").created == 1


@given(rows=st.lists(st.tuples(*[CELLS] * len(COLUMNS)), min_size=1, max_size=4))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_import_of_any_cells_ends_with_one_outcome_a_row(
    importer: Importer, rows: list[tuple[str, ...]]
) -> None:
    path = importer.folder / "cells.csv"
    content = as_csv([*COLUMNS, "type"], *([*row, "customer"] for row in rows))
    path.write_bytes(content.encode())
    result = importer.run("accounts", path)
    assert (result.rows, result.created + result.failed) == (len(rows), len(rows))
    assert importer.run("accounts", path, dry_run=True).rows == len(rows)
    importer.items("accounts")


@pytest.mark.parametrize("occurred_at", ["0001-01-01T00:00:00+14:00", "0001-01-01", "1899-12-31"])
def test_time_beyond_the_range_of_years_fails_its_row(importer: Importer, occurred_at: str) -> None:
    result = importer.run("accounts", f"company,type,occurredAt\nAcme,customer,{occurred_at}\n")
    assert errors(result) == [(2, "occurredAt", occurred_at, "invalid_value")]


def test_file_of_empty_lines_is_refused_after_a_number_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LINES_MAX", 1_000)
    path = tmp_path / "lines.csv"
    path.write_bytes(b"company\n" + b"\n" * 5_000_000)
    refused = refusal_of(path)
    assert (refused.fault, str(refused)) == (
        ImportFault.TOO_LARGE,
        "lines.csv has more than 1,000 lines: split it.",
    )


def test_lines_within_quotes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LINES_MAX", 1_000)
    path = tmp_path / "quoted.csv"
    path.write_bytes(b'company\n"' + b"\n" * 1_000 + b'"\n')
    assert refusal_of(path).fault is ImportFault.TOO_LARGE
    assert LINES_MAX == 2_000_000


@pytest.mark.parametrize(
    "content", [b"a" * 30_000_000, b"a\n" + b"," * 30_000_000, b"a\n" + b"b," * 30_000_000]
)
def test_endless_row_is_refused_before_it_is_in_memory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "row.csv"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refused = refusal_of(path)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.fault is ImportFault.TOO_LARGE
    assert "500,000 characters" in str(refused)
    assert most_bytes < 40 * ROW_MAX_CHARS


def test_rows_are_taken_by_their_length_too(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    row = as_csv(["x" * 100_000] * 4).encode()
    path.write_bytes(b"a,b,c,d\n" + row * 30)
    taken = list(take_rows(open_table(path).rows(), START, 500))
    assert sum(len("".join(row.cells.values())) for row in taken) <= BATCH_BYTES + len(row)
    assert 1 < len(taken) < 30


@pytest.mark.parametrize("name", ["a\0b", "x" * (COLUMN_NAME_MAX_CHARS + 1), "a\x07"])
def test_column_name_that_is_too_long_or_not_printable_is_refused(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "header.csv"
    path.write_bytes(f"company,{name}\nAcme,1\n".encode())
    assert refusal_of(path).fault is ImportFault.NO_TABLE


@pytest.mark.parametrize("sample", ['",', ',"\n', '\n"', '"a",', ' "', ',\n"', ",;|\t\n"])
def test_delimiter_of_a_crafted_sample_is_found_in_few_steps(tmp_path: Path, sample: str) -> None:
    path = tmp_path / "sample.csv"
    path.write_bytes(b"a,b\n" + sample.encode() * 20_000)
    reads, real = 0, csv.reader

    def counted(lines: object, **options: object) -> object:
        nonlocal reads
        reads += 1
        return real(lines, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "reader", counted)
        with contextlib.suppress(ImportRefused):
            open_table(path)
    assert reads <= len(files.DELIMITERS) + 2


def test_kind_is_named_in_either_number() -> None:
    assert kind_of("account") is kind_of("accounts") is IMPORTABLE["accounts"]


def test_text_messages_keys_and_workspaces_are_not_importable() -> None:
    assert IMPORTABLE.keys() == {
        *("accounts", "contacts", "leads", "members", "meetings", "notes", "opportunities"),
        *("appointments", "proposals", "tasks"),
    }
    for plural in ("sms", "keys", "workspaces"):
        with pytest.raises(ImportRefused, match="cannot be imported"):
            kind_of(plural)
