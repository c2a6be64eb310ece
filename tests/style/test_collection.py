"""Each process collects the same tests: workers refuse to start when their lists differ."""

from __future__ import annotations

import os
import subprocess
import sys

from runtime.settings import REPOSITORY

SEEDS = ("1", "3", "8")
"""Two of them order {"GET", "HEAD"} unlike, and each further one finds half of what is left."""


def test_the_order_of_tests_does_not_depend_on_the_seed_of_hashes() -> None:
    collecting = [collect(seed) for seed in SEEDS]
    first, *others = (process.communicate()[0] for process in collecting)
    assert [process.returncode for process in collecting] == [0, 0, 0], first[-2000:]
    assert first.count("::") > 1000
    for other in others:
        assert first.splitlines()[:-1] == other.splitlines()[:-1]  # the last line has the duration


def collect(seed: str) -> subprocess.Popen[str]:
    """Start a process that lists all tests, in which sets have the order that the seed gives."""
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    options = ["--collect-only", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pytest", *options],
        cwd=REPOSITORY,
        env=environment | {"PYTHONHASHSEED": seed},
        stdout=subprocess.PIPE,
        text=True,
    )
