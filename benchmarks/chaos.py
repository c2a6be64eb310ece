"""The chaos test for a chosen time: random commands, random faults, and then a check of the data.

    python -m benchmarks.chaos --minutes 10 [--seed N] [--kafka]

Prints the seed first, then each fault as it happens. The exit code is 1 if anything was lost,
doubled or wrong (docs/how-to/run-the-chaos-test.md).
"""

from __future__ import annotations

import argparse
import secrets
import sys
from contextlib import ExitStack

from tests.support.chaos.trial import Trial, run

SECONDS_PER_MINUTE = 60
SEED_MAX = 1_000_000


def main() -> int:
    """Run one trial and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="random by default")
    parser.add_argument(
        "--kafka", action="store_true", help="project from Kafka, and break that too"
    )
    arguments = parser.parse_args()
    seed = secrets.randbelow(SEED_MAX) if arguments.seed is None else arguments.seed
    with ExitStack() as stack:
        kafka = None
        if arguments.kafka:
            from tests.support.kafka_broker import running_kafka  # needs the Kafka client

            kafka = stack.enter_context(running_kafka())
        trial = Trial(seed, arguments.minutes * SECONDS_PER_MINUTE, kafka)
        outcome = run(trial, lambda line: print(line, flush=True))
    print(outcome.report() if outcome.violations else f"All is well. {outcome.summary()}")
    return int(bool(outcome.violations))


if __name__ == "__main__":
    sys.exit(main())
