"""Waiting until the projections have reached a position."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection
from eventlog.scope import Scope
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from readmodels import table_definitions
from readmodels.operation.checkpoints import NotProjected, wait_until_projected
from tests.support.databases import Urls


def test_wait_ends_when_live_projections_reach_the_position(
    engine: ProjectionEngine,
    commands: EntityCommands,
    scope: Scope,
    database: Connection,
    urls: Urls,
) -> None:
    """The old tables of a rebuild keep a checkpoint that never moves."""
    engine.catch_up()
    Rebuild(urls.projector, {"accounts": table_definitions()["accounts"]}, workers=1).run()
    position = commands.create(scope, Account, {"company": "Acme", "type": "customer"}).position
    with pytest.raises(NotProjected) as stalled:
        wait_until_projected(lambda: nullcontext(database), position, 0.1)
    assert stalled.value.reached < position
    engine.catch_up()
    wait_until_projected(lambda: nullcontext(database), position, 0.0)
    wait_until_projected(lambda: nullcontext(database), position, 0.0, names=["accounts"])
