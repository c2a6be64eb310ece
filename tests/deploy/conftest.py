"""Fixture: the stack of compose.yaml, started by the commands of its guide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.compose import ComposeStack, compose_stack

GUIDE = "docs/how-to/run-with-compose.md"


@pytest.fixture(scope="module")
def compose() -> Iterator[ComposeStack]:
    """The running stack, after all commands of the guide."""
    with compose_stack() as stack:
        stack.follow(GUIDE)
        yield stack
