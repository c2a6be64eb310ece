"""Files of other systems: encodings, delimiters, byte order marks, quoting, proposed fields."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.importing.deciding import ImportIds, KeyIndex
from commands.importing.files import (
    PART_BYTES,
    SourceTable,
    UploadedFile,
    open_table,
    read_table,
)
from commands.importing.issues import ImportFault, ImportRefused
from commands.importing.mapping import Why, propose
from domain.shared.kinds import BY_PLURAL

WESTERN = "name;city\nJosé Müller;Köln\nFrançois Lefèvre;Besançon\n"
RUSSIAN = "имя,город\nИван Петров,Москва\nОльга Сидорова,Казань\n"
GREEK = "όνομα,πόλη\nΓιώργος Παπαδόπουλος,Αθήνα\n"
JAPANESE = "会社,担当\n株式会社山田,山田太郎\n"
CHINESE = "公司,联系人\n北京科技有限公司,王小明\n"


def table_of(content: bytes, **given: str) -> SourceTable:
    """Return the table in these bytes, read in parts like an uploaded file."""

    def part(number: int) -> bytes:
        return content[number * PART_BYTES : (number + 1) * PART_BYTES]

    return read_table(UploadedFile("x.csv", len(content), part), **given)


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        (WESTERN, "utf-8", "utf-8"),
        (WESTERN, "utf-8-sig", "utf-8"),
        (WESTERN, "utf-16", "utf-16-le"),
        (WESTERN, "utf-16-le", "utf-16-le"),
        (WESTERN, "utf-16-be", "utf-16-be"),
        (WESTERN, "utf-32", "utf-32-le"),
        (WESTERN, "cp1252", "cp1252"),
        (WESTERN, "iso8859-1", "cp1252"),
        (RUSSIAN, "cp1251", "cp1251"),
        (GREEK, "cp1253", "cp1253"),
        (JAPANESE, "shift_jis", "cp932"),
        (CHINESE, "gb18030", "gb18030"),
    ],
)
def test_encoding_is_detected(text: str, encoding: str, found: str) -> None:
    table = table_of(text.encode(encoding))
    assert table.encoding == found
    lines = list(csv.reader(io.StringIO(text), delimiter=table.delimiter))
    assert [table.columns, *(tuple(row.cells.values()) for row in table.rows())] == [
        tuple(each) for each in lines
    ]


@pytest.mark.parametrize("encoding", ["cp1250", "iso8859-15", "mac-roman", "utf-16", "UTF-8"])
def test_given_encoding_is_used(encoding: str) -> None:
    table = table_of("name\nÖzil\n".encode(encoding), encoding=encoding)
    assert list(table.values("name")) == ["Özil"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_detected_among_others_in_the_cells(delimiter: str) -> None:
    text = io.StringIO()
    rows = [["company", "note", "city"], ["Acme", "one, two\nthree; four", "Oslo"]]
    csv.writer(text, delimiter=delimiter).writerows([*rows, ["Beta", "5 | 6\t7", "Riga"]])
    table = table_of(text.getvalue().encode())
    assert (table.delimiter, table.rows_total) == (delimiter, 2)
    assert [row.cells["city"] for row in table.rows()] == ["Oslo", "Riga"]


def test_file_of_one_column_is_not_split() -> None:
    table = table_of(b"company\nAcme; Sons\nBeta | Co\n")
    assert list(table.values("company")) == ["Acme; Sons", "Beta | Co"]


def test_open_quote_is_refused_and_a_quote_within_a_cell_is_not() -> None:
    assert table_of(b'a,b\n5" pipe,x\n6" pipe,y\n').rows_total == 2
    with pytest.raises(ImportRefused, match="in record 3") as refused:
        table_of(b'a,b\n1,2\n3,"4\n5,6\n')
    assert refused.value.fault is ImportFault.NO_TABLE


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\x1a"), max_size=20)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    encodings=st.sampled_from(
        [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16-le"), ("utf-16-be",) * 2]
    ),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_reading_resumes_at_any_row(
    rows: list[tuple[str, str]], encodings: tuple[str, str], end: str
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    written, read = encodings
    table = table_of(text.getvalue().encode(written), encoding=read, delimiter=",")
    whole = [(row.number, dict(row.cells)) for row in table.rows()]
    assert [tuple(cells.values()) for _, cells in whole] == [
        each for each in rows if any(cell.strip() for cell in each)
    ]
    for done, row in enumerate(table.rows(), 1):
        rest = [(each.number, dict(each.cells)) for each in table.rows(row.end)]
        assert rest == whole[done:]


def test_local_file_is_read_like_an_uploaded_one(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(WESTERN.encode("cp1252"))
    assert open_table(path).columns == ("name", "city")
    with pytest.raises(ImportRefused) as refused:
        open_table(tmp_path / "none.csv")
    assert refused.value.fault is ImportFault.UNREADABLE


@pytest.mark.parametrize(
    ("kind", "columns", "fields"),
    [
        (
            "accounts",
            {"Account Name": ["Acme"], "Account Owner": ["Ada"], "Mail": ["a@b.co"], "Title": []},
            ["company", "assignedTo", "contactEmail", "customFields.Title"],
        ),
        (
            "accounts",
            {"Status": ["open", "closed"], "created_at": ["2020-01-31"], "Mystery": ["x@y.org"]},
            ["customFields.Status", "occurredAt", "contactEmail"],
        ),
        (
            "accounts",
            {"id": ["1"], "company": ["A"], "contactCount": ["2"], "customFields.x": ["1"]},
            ["", "company", "", "customFields.x"],
        ),
        (
            "contacts",
            {"Vorname": ["Ada"], "Nachname": ["L"], "Company": ["Acme"], "Tel": ["+47 22 33 44"]},
            ["firstName", "lastName", "accountId", "phone"],
        ),
        (
            "opportunities",
            {"deal_stage": ["Won"], "Amount": ["$1,054.50"], "Close Date": ["3/1/2017"]},
            ["stage", "value", "closedOn"],
        ),
        ("opportunities", {"Amount": ["a lot"], "value": ["5"]}, ["customFields.Amount", "value"]),
        ("tasks", {"Subject": ["Call"], "Due": ["2020-01-31"]}, ["title", "dueDate"]),
    ],
)
def test_fields_are_proposed_by_name_and_values(
    kind: str, columns: dict[str, list[str]], fields: list[str]
) -> None:
    assert [each.field for each in propose(BY_PLURAL[kind], columns).values()] == fields


def test_no_field_is_proposed_twice() -> None:
    found = propose(BY_PLURAL["accounts"], {"Client": ["A"], "Company": ["B"], "Firm": ["C"]})
    assert found["Company"].field == "company"
    assert {found["Client"].why, found["Firm"].why} == {Why.CUSTOM}


def test_keys_are_found_regardless_of_case_and_spaces() -> None:
    one, other = UUID(int=1), UUID(int=2)
    index = KeyIndex([(one, ("Acme  Ltd", "Oslo")), (other, ("Beta", None)), (one, (None, ""))])
    assert len(index) == 2
    assert index.find(("acme ltd", "oslo")) == one
    assert index.find(("beta", "")) == other
    assert index.find(("gamma", "")) is None


def test_ids_are_derived_from_import_and_key() -> None:
    mine, other = ImportIds(UUID(int=7 << 80 | 1)), ImportIds(UUID(int=7 << 80 | 2))
    assert mine.of("key", "acme") == mine.of("key", "acme") != other.of("key", "acme")
    assert mine.of("key", "acme").version == 8
    assert mine.includes(mine.of("key", "beta"))
    assert not mine.includes(UUID(int=7 << 80 | 1))
