"""The projector process: it runs until it receives a stop signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from commands.entities import EntityCommands
from domain.account import Account
from eventlog.connections import Connection
from eventlog.scope import Scope
from runtime.settings import Settings
from server.processes.projector import open_projection_engine
from tests.support.databases import Urls
from tests.support.processes import STOP_TIMEOUT_S
from tests.support.waiting import wait_until

RUN = """
from server.processes.projector import run_projector
from runtime.settings import Settings
run_projector(Settings())
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_projector_runs_until_a_stop_signal(
    urls: Urls, commands: EntityCommands, scope: Scope, database: Connection, stop: signal.Signals
) -> None:
    environment = {
        **os.environ,
        "ANNALS_OWNER_URL": urls.owner,
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PROJECTOR_URL": urls.projector,
    }
    process = subprocess.Popen([sys.executable, "-c", RUN], env=environment)
    try:
        commands.create(scope, Account, {"company": "Acme", "type": "customer"})
        wait_until(
            lambda: database.execute("SELECT count(*) FROM read.accounts").fetchone() == (1,),
            "the account is projected",
        )
        process.send_signal(stop)
        assert process.wait(STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()


def test_projector_requires_its_url() -> None:
    with pytest.raises(LookupError, match="ANNALS_PROJECTOR_URL"):
        open_projection_engine(Settings())
