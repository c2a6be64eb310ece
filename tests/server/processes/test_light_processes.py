"""Workers, senders, projectors and relays start without the HTTP framework."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from runtime.settings import REPOSITORY
from tests.support.databases import Urls

# Runs a command of `annals` like the script, up to the start of the work of its process.
START = """
import sys
from unittest import mock
from server.cli.__main__ import main
from {module} import {name}

def report(*_arguments, **_options):
    loaded = [each for each in ("fastapi", "starlette", "uvicorn") if each in sys.modules]
    print("started with", loaded)

sys.argv = ["annals", "{command}"]
with mock.patch.object({name}, "run", report):
    main()
"""
PROCESSES = {
    "work": ("commands.jobs.worker", "Worker"),
    "send": ("server.processes.sender", "Sender"),
    "project": ("projections.engine.live.runner", "ProjectionEngine"),
    "relay": ("eventlog.kafka.relay", "Relay"),
}


@pytest.mark.parametrize("command", PROCESSES)
def test_process_starts_without_the_http_framework(command: str, urls: Urls) -> None:
    module, name = PROCESSES[command]
    script = START.format(module=module, name=name, command=command)
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "ANNALS_APP_URL": urls.app,
        "ANNALS_PROJECTOR_URL": urls.projector,
        "ANNALS_SENDER_URL": urls.sender,
    }
    result = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "started with []" in result.stdout, result.stdout + result.stderr
