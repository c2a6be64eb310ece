"""A short run of schemathesis: coverage, fuzzing and stateful, with a fixed seed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.codes import CODES
from server.postgres.embedded import Cluster
from tests.support.fuzzing.hooks import REFUSALS
from tests.support.fuzzing.runs import fuzzed_api, run_schemathesis

pytestmark = pytest.mark.long(seconds=60)

SEED = 1
EXAMPLES = 3
LIKE_ACCOUNTS = ("contacts", "opportunities", "meetings", "tasks", "notes", "members")
"""Kinds whose routes are made by the same code as those of accounts."""


def test_schemathesis_finds_nothing(cluster: Cluster, template: str, tmp_path: Path) -> None:
    with fuzzed_api(cluster, template) as api:
        token = api.new_workspace().token("admin")
        options = [part for tag in LIKE_ACCOUNTS for part in ("--exclude-tag", tag)]
        done = run_schemathesis(api, token, tmp_path, examples=EXAMPLES, seed=SEED, options=options)
    assert done.returncode == 0, done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert re.search(f"✅ {phase}", done.stdout), done.stdout


def test_every_excepted_code_exists_and_has_a_reason() -> None:
    assert set(REFUSALS) <= set(CODES)
    assert all(REFUSALS.values())
