"""The commands of the how-to documents, run against one service."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import pytest

from runtime.settings import REPOSITORY
from tests.support.documents import Clone, clone, document_steps, output_lines

pytestmark = pytest.mark.long(seconds=20)

SERVE = "./annals demo --accounts 100"
"""The first command of each document, in the first terminal."""
DOCUMENTS = (
    *("write-a-projection", "back-up-and-restore", "migrate"),
    *("send-sms", "follow-changes", "add-an-entity"),
)
QUERY = re.compile(r"^```sql\n(SELECT.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served() -> Iterator[Clone]:
    """A clone of the repository in which the service runs."""
    with clone() as folder, folder.serve(SERVE):
        yield folder


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_prints_what_the_document_shows(served: Clone, name: str) -> None:
    first, *others = document_steps(f"docs/how-to/{name}.md")
    assert first.commands.strip() == SERVE
    printed = served.run([step.commands for step in others])
    for step, output in zip(others, printed, strict=True):
        if step.shown is not None:
            assert output_lines(output) == output_lines(step.shown)


def test_queries_of_the_document_find_rows_in_parquet_files(
    served: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.folder)
    queries = QUERY.findall((REPOSITORY / "docs/how-to/write-a-projection.md").read_text("utf-8"))
    assert len(queries) == 2
    for query in queries:
        with duckdb.connect() as connection:
            assert connection.execute(query).fetchall()
