"""The rate at which an analyst's projection runs over history and history is exported as Parquet.

    python -m benchmarks.analysis [--events 1000000]

Prints events per second on one core, and the largest resident set so far in MiB, which should not
grow with the number of events.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.generated import database, fill_log
from replay.analysis import load_analysis, run_analysis, store_in_schema
from replay.parquet import export_history
from replay.span import choose_part

SOURCE = """
from replay.analysis import Add

TABLE = "CREATE TABLE topics (topic text, n bigint NOT NULL, PRIMARY KEY (workspace_id, topic))"

def project(event):
    yield Add("topics", event.topic, {"n": 1})
"""


def print_rate(name: str, events: int, work: Callable[[], object]) -> None:
    """Run the work and print its rate."""
    started = time.monotonic()
    work()
    rate = events / (time.monotonic() - started)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<24} {rate:10,.0f} events/s, {peak_mib:.0f} MiB")


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    with database() as urls, tempfile.TemporaryDirectory() as folder:
        fill_log(urls.app, events)
        file = Path(folder) / "topics.py"
        file.write_text(SOURCE, "utf-8")
        analysis = load_analysis(file)
        # Twice, because the first read of new rows sets their hint bits.
        for _ in range(2):
            print_rate(
                "annals project --file",
                events,
                lambda: run_analysis(urls.projector, analysis, choose_part, store_in_schema),
            )
        history = Path(folder) / "history"
        print_rate(
            "annals export history",
            events,
            lambda: export_history(urls.projector, choose_part, history),
        )


if __name__ == "__main__":
    main()
