"""Rates: how many requests a key may send in a window of time, counted in this process.

The generic cell rate algorithm (ITU-T I.371): for each counted key there is one number, the time at
which its quota would be whole again. Each request moves it one interval into the future; a request
that would move it beyond the window is refused. The quota comes back steadily, so no window has an
edge at which twice the quota fits, and the time to wait is known exactly (docs/adr/0024).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from math import ceil

KEYS_MAX = 50_000
"""Maximum number of keys that are counted at once, some 15 MB. Beyond it, the key whose last
request is the longest ago starts again with a whole quota."""
ROUNDING_S = 1e-6
"""Seconds by which sums of times may differ from the exact ones."""


@dataclass(frozen=True)
class Quota:
    """At most `requests` (at least 1) within `window_s` seconds; `name` is shown to clients."""

    name: str
    requests: int
    window_s: int = 60

    @cached_property
    def interval_s(self) -> float:
        """Seconds after which one request more is allowed."""
        return self.window_s / self.requests

    @property
    def policy(self) -> str:
        """The quota as an item of the header RateLimit-Policy."""
        return f'"{self.name}";q={self.requests};w={self.window_s}'


class RateCounter:
    """Counts requests by key, each against a quota. Used in the event loop only."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, keys_max: int = KEYS_MAX
    ) -> None:
        self._clock = clock
        self._keys_max = keys_max
        self._whole_at_s: OrderedDict[Hashable, float] = OrderedDict()

    def wait_s(self, key: Hashable, quota: Quota) -> float:
        """Return the seconds after which a request is within the quota; 0 if it is now."""
        whole_at_s = self._whole_at_s.get(key, 0.0)
        wait_s = whole_at_s + quota.interval_s - quota.window_s - self._clock()
        return wait_s if wait_s > ROUNDING_S else 0.0

    def count(self, key: Hashable, quota: Quota) -> str:
        """Count a request; return what is left of the quota as an item of the header RateLimit."""
        now_s = self._clock()
        whole_at_s = max(self._whole_at_s.get(key, 0.0), now_s) + quota.interval_s
        self._whole_at_s[key] = whole_at_s
        self._whole_at_s.move_to_end(key)
        if len(self._whole_at_s) > self._keys_max:
            self._whole_at_s.popitem(last=False)
        used_s = whole_at_s - now_s
        left = max(0, int((quota.window_s - used_s + ROUNDING_S) / quota.interval_s))
        # More becomes available when the last interval that has begun ends.
        more_in_s = ceil(used_s % quota.interval_s or quota.interval_s)
        return f'"{quota.name}";r={left};t={more_in_s}'
