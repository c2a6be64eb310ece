"""A rebuild in a process of its own, which a test kills (`python -m` with URL and rate)."""

from __future__ import annotations

import sys

from projections.engine.rebuild import runner
from readmodels import table_definitions

WORKERS = 3
PART_EVENTS_MIN = 20
"""So that a short log is folded by several processes."""


def main(url: str, throttle_events_per_s: float | None) -> None:
    """Rebuild accounts and tasks."""
    runner.PART_EVENTS_MIN = PART_EVENTS_MIN
    definitions = {name: text for name, text in table_definitions().items() if name in NAMES}
    runner.Rebuild(
        url, definitions, workers=WORKERS, throttle_events_per_s=throttle_events_per_s
    ).run()


NAMES = ("accounts", "tasks")

if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) or None)
