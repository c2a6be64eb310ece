"""Every command of the README and the quickstart prints the output that they show."""

from __future__ import annotations

import pytest

from tests.support.documents import clone, document_steps, output_lines

pytestmark = pytest.mark.long(seconds=30)

DOCUMENTS = {"docs/quickstart.md": "./annals up", "README.md": "./annals demo"}
"""The documents, and the command of each that starts the service in the first terminal."""
SMALLER = {"./annals demo": "./annals demo --accounts 50"}
"""Faster replacements of commands; the output shown does not depend on the number of accounts."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_prints_what_the_document_shows(document: str) -> None:
    first, *others = document_steps(document)
    serve = DOCUMENTS[document]
    assert first.commands.strip() == serve
    with clone() as folder, folder.serve(SMALLER.get(serve, serve)):
        printed = folder.run([step.commands for step in others])
    assert len(printed) == len(others)
    for step, output in zip(others, printed, strict=True):
        if step.shown is not None:
            assert output_lines(output) == output_lines(step.shown)
