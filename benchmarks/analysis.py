"""How fast an analyst's projection runs over history, and history goes out as Parquet.

    python -m benchmarks.analysis [--events 1000000]

Events a second on one core; memory is the largest resident set so far, in MiB, which is not to
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
from replay.analysis import into_schema, load, run
from replay.parquet import export_history
from replay.span import choose

SOURCE = """
from replay.analysis import Add

TABLE = "CREATE TABLE topics (topic text, n bigint NOT NULL, PRIMARY KEY (workspace_id, topic))"

def project(event):
    yield Add("topics", event.topic, {"n": 1})
"""


def measured(what: str, events: int, work: Callable[[], object]) -> None:
    """Do the work and print its rate."""
    started = time.monotonic()
    work()
    rate = events / (time.monotonic() - started)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<24} {rate:10,.0f} events/s, {peak_mib:.0f} MiB")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    with database() as urls, tempfile.TemporaryDirectory() as folder:
        fill_log(urls.app, events)
        file = Path(folder) / "topics.py"
        file.write_text(SOURCE, "utf-8")
        analysis = load(file)
        # Twice: the first reading of new rows writes hints to them.
        for _ in range(2):
            measured(
                "annals project --file",
                events,
                lambda: run(urls.projector, analysis, choose, into_schema),
            )
        history = Path(folder) / "history"
        measured(
            "annals export history", events, lambda: export_history(urls.projector, choose, history)
        )


if __name__ == "__main__":
    main()
