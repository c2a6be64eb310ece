"""Run schemathesis at length: `.venv/bin/python -m tests.support.fuzzing --examples 200 --seed 7`.

The whole document is tried with an admin's key, then the routes of operators with an operator's.
The seed is random unless given; schemathesis prints it. The exit code is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.databases import make_template
from tests.support.fuzzing.runs import OF_OPERATORS, fuzzed_api, run_schemathesis
from tests.support.keys import issue_operator_key
from tests.support.postgres_server import fast_cluster

SEEDS_MAX = 2**31


def main() -> int:
    """Run with the arguments of the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100, help="for each operation and phase")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(SEEDS_MAX))
    given = parser.parse_args()
    codes = []
    with (
        TemporaryDirectory() as folder,
        fast_cluster() as cluster,
        fuzzed_api(cluster, make_template(cluster)) as api,
    ):
        operator = issue_operator_key(str(api.settings.owner_url))
        api.wait_until_projected(operator.outcome.position)
        runs = [
            (api.new_workspace().token("admin"), []),
            (operator.token, ["--include-path-regex", OF_OPERATORS]),
        ]
        for token, options in runs:
            done = run_schemathesis(
                *(api, token, Path(folder)),
                examples=given.examples,
                seed=given.seed,
                options=options,
            )
            sys.stdout.write(done.stdout)
            codes.append(done.returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
