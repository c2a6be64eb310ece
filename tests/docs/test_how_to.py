"""The how-to documents, done as they say, beside one service that runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import pytest

from runtime.settings import REPOSITORY
from tests.support.documents import Clone, clone, document_steps, output_lines

pytestmark = pytest.mark.long(seconds=20)

SERVES = "./annals demo --accounts 100"
"""How each of the documents begins, in the first terminal."""
DOCUMENTS = (
    *("write-a-projection", "back-up-and-restore", "migrate"),
    *("send-sms", "follow-changes", "add-an-entity"),
)
QUERY = re.compile(r"^```sql\n(SELECT.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served() -> Iterator[Clone]:
    """Where the reader of the documents stands, once the service answers."""
    with clone() as folder, folder.serve(SERVES):
        yield folder


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_does_what_the_document_shows(served: Clone, name: str) -> None:
    first, *others = document_steps(f"docs/how-to/{name}.md")
    assert first.commands.strip() == SERVES
    printed = served.run([step.commands for step in others])
    for step, output in zip(others, printed, strict=True):
        if step.shown is not None:
            assert output_lines(output) == output_lines(step.shown)


def test_parquet_files_answer_the_queries_of_the_document(
    served: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.folder)
    queries = QUERY.findall((REPOSITORY / "docs/how-to/write-a-projection.md").read_text("utf-8"))
    assert len(queries) == 2
    for query in queries:
        with duckdb.connect() as connection:
            assert connection.execute(query).fetchall()
