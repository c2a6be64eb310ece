"""Circuit breaker: after repeated failures it blocks calls for a while, then admits one probe.

A breaker is immutable: each method returns the next one. `commands/delivery/breakers.py` stores it
and supplies the time. States and names are those of Nygard's "Release It!".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class State(StrEnum):
    CLOSED = "CLOSED"
    """All calls go through."""
    OPEN = "OPEN"
    """No call goes through until it is time for a probe."""
    HALF_OPEN = "HALF_OPEN"
    """One call, the probe, is under way; its outcome closes or opens the breaker."""


@dataclass(frozen=True)
class Limits:
    """When the breaker opens, and for how long."""

    failures: int = 5
    """Number of failures within `window_s` that open the breaker."""
    window_s: float = 60.0
    wait_s: float = 30.0
    """Time from opening to the first probe; doubled after each failed probe."""
    wait_max_s: float = 300.0
    """Upper limit of the doubled time."""
    probe_s: float = 30.0
    """Time after which a probe without an outcome counts as lost, and another one is admitted."""


@dataclass(frozen=True)
class Breaker:
    """The state of the breaker between two calls."""

    state: State = State.CLOSED
    failures: tuple[datetime, ...] = ()
    """Times of the failures that still count, the oldest first."""
    wait_s: float = 0.0
    """Time from opening to the probe; 0 while CLOSED."""
    until: datetime | None = None
    """OPEN: when a probe is admitted. HALF_OPEN: when the probe counts as lost."""
    epoch: int = 0
    """Number of state changes. The outcome of a call from an earlier epoch is ignored."""

    def admit(self, now: datetime, limits: Limits) -> Breaker | None:
        """The breaker after admitting a call, or None if it does not admit one.

        The outcome of the call has to be reported with the epoch of the returned breaker.
        """
        if self.state is State.CLOSED:
            return self
        assert self.until is not None
        if now < self.until:
            return None
        until = now + timedelta(seconds=limits.probe_s)
        return replace(self, state=State.HALF_OPEN, until=until, epoch=self.epoch + 1)

    def succeeded(self, epoch: int) -> Breaker:
        """The breaker after the gateway answered a call of this epoch, even with a refusal."""
        if epoch != self.epoch or self.state is not State.HALF_OPEN:
            return self
        return Breaker(epoch=self.epoch + 1)

    def failed(self, epoch: int, now: datetime, limits: Limits) -> Breaker:
        """The breaker after a call of this epoch got no answer."""
        if epoch != self.epoch or self.state is State.OPEN:
            return self
        since = now - timedelta(seconds=limits.window_s)
        recent = tuple(at for at in self.failures if at > since)
        counted = replace(self, failures=(*recent, now)[-limits.failures :])
        if self.state is State.HALF_OPEN:
            return counted._opened(min(self.wait_s * 2, limits.wait_max_s), now)
        if len(counted.failures) < limits.failures:
            return counted
        return counted._opened(limits.wait_s, now)

    def withdrawn(self, epoch: int, now: datetime) -> Breaker:
        """The breaker after the admitted probe of this epoch was not made; it admits a new one."""
        if epoch != self.epoch or self.state is not State.HALF_OPEN:
            return self
        return replace(self, state=State.OPEN, until=now, epoch=self.epoch + 1)

    def is_open(self, now: datetime) -> bool:
        """Whether the next call would be blocked, and would not be admitted as a probe."""
        return self.state is State.OPEN and self.until is not None and now < self.until

    def _opened(self, wait_s: float, now: datetime) -> Breaker:
        until = now + timedelta(seconds=wait_s)
        return replace(self, state=State.OPEN, wait_s=wait_s, until=until, epoch=self.epoch + 1)
