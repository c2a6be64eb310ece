"""Workspace: a tenant."""

from __future__ import annotations

from domain.workspace import Workspace
from tests.support.spec import NOON, created, given, updated, when_created

ACME_SALES = {"name": "Acme Sales"}


def test_a_workspace_needs_a_name() -> None:
    when_created(Workspace, ACME_SALES).then(created(Workspace, ACME_SALES))
    when_created(Workspace, {"name": ""}).then_invalid("name")


def test_a_workspace_can_be_renamed() -> None:
    given(Workspace, created(Workspace, ACME_SALES)).when(
        lambda workspace: workspace.revise({"name": "Acme"}, at=NOON)
    ).then(updated(Workspace, name=("Acme Sales", "Acme")))
