"""A run of schemathesis against an API with a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.settings import REPOSITORY
from server.postgres.embedded import Cluster
from tests.support.api_server import Api, running_api
from tests.support.databases import fresh_database

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
WITHOUT_RATES: dict[str, Any] = {
    f"rate_{each}": 0
    for each in (
        *("reads_per_minute", "writes_per_minute", "bulk_per_minute", "streams_per_minute"),
        *("auth_failures_per_minute", "workspace_keys"),
    )
}
OF_OPERATORS = "^/api/(projections|log)"


@contextmanager
def fuzzed_api(cluster: Cluster, template: str) -> Iterator[Api]:
    """Run an API without quotas, which the requests would exceed, while the block lasts."""
    with (
        fresh_database(cluster, template) as urls,
        running_api(
            *(urls.owner, urls.app, urls.projector),
            **{**WITHOUT_RATES, "body_max_bytes": 1_000_000, "body_timeout_s": 10.0},
        ) as api,
    ):
        yield api


def run_schemathesis(
    api: Api, token: str, folder: Path, *, examples: int, seed: int, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run all phases with this number of examples an operation; `folder` gets its working files."""
    return subprocess.run(
        [
            *(str(SCHEMATHESIS), "--config-file", str(CONFIGURATION), "--no-color"),
            *("run", f"{api.url}/openapi.json", "--header", f"Authorization: Bearer {token}"),
            *("--max-examples", str(examples), "--seed", str(seed)),
            *("--warnings", "off", "--continue-on-failure", *options),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
