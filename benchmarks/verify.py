"""Check the log by one reading for all projections, and by one reading for each.

    python -m benchmarks.verify [--events N]

Both ways compare the same ledgers and have to find nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from benchmarks.generated import database, fill_log
from eventlog.connections import follow_connection
from projections.engine.ledger.coverage import gaps, verify_all
from projections.engine.rebuild.runner import Rebuild
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions

EVENTS = 200_000
REPETITIONS = 3


def seconds(action: Callable[[], Sequence[object]]) -> float:
    """The shortest time of some repetitions. Raises `RuntimeError` if a fault is found."""
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        if faults := action():
            raise RuntimeError(f"faults were found: {faults[:3]}")
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Fill a log, build all projections, and print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    events = parser.parse_args().events
    with database() as urls:
        fill_log(urls.app, events)
        Rebuild(urls.projector, table_definitions(), replace_because="benchmark").run()
        with follow_connection(urls.projector, application_name="benchmark") as connection:
            once = seconds(lambda: verify_all(connection))
            for_each = seconds(
                lambda: [gap for name in PROJECTIONS for gap in gaps(connection, name, upto=events)]
            )
    print(f"{events:,} events, {len(PROJECTIONS)} projections")
    print(f"one reading for all    {once:8.2f} s")
    print(f"one reading for each   {for_each:8.2f} s   {for_each / once:.1f} times")


if __name__ == "__main__":
    main()
