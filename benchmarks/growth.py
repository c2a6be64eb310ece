"""Whether the rate and the memory of a rebuild stay the same when the log grows.

    python -m benchmarks.growth [--events 500000 10000000] [--workers 2]

Each log is filled by COPY. All read tables are rebuilt twice: from nothing, and then with a
comparison with the live rows, which is measured. 10,000,000 events need 30 GB of disk and, on two
cores, twenty minutes.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.generated import copy_log, database
from benchmarks.rebuild import rebuild_all
from projections.engine.rebuild.runner import Rebuild
from readmodels import table_definitions


def measure(events: int, workers: int) -> tuple[float, float]:
    """Return the events per second of a rebuild, and the MiB of its largest worker."""
    with database() as urls:
        copy_log(urls.owner, events)
        Rebuild(
            urls.projector, table_definitions(), workers=workers, replace_because="it is empty"
        ).run()
        seconds, memory_mib = rebuild_all(urls.projector, workers)
    return events / seconds, memory_mib


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, nargs="+", default=[500_000, 10_000_000])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    first: float | None = None
    for events in options.events:
        rate, memory_mib = measure(events, options.workers)
        first = first or rate
        print(
            f"{events:,} events: {rate:,.0f} events/s, {rate / first:.2f} of the first,"
            f" the largest worker has {memory_mib:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
