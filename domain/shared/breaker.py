"""Circuit breaker: whoever does not answer is left alone for a while, then tried once.

Pure: a breaker and a time in, a breaker out. Who keeps it, and by whose clock, is decided elsewhere
(commands/delivery/breakers.py). The states and their names are those of Nygard's "Release It!".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class State(StrEnum):
    CLOSED = "CLOSED"
    """All calls go through."""
    OPEN = "OPEN"
    """None does, until it is time for a probe."""
    HALF_OPEN = "HALF_OPEN"
    """One call is under way, and decides."""


@dataclass(frozen=True)
class Limits:
    """When it opens, and for how long."""

    failures: int = 5
    """So many failures within `window_s` open it."""
    window_s: float = 60.0
    wait_s: float = 30.0
    """From opening to the first probe; twice that after each probe that fails,"""
    wait_max_s: float = 300.0
    """and no more than this."""
    probe_s: float = 30.0
    """A probe that says nothing for so long is lost with whoever made it; another may be made."""


@dataclass(frozen=True)
class Breaker:
    """What is known of the other side."""

    state: State = State.CLOSED
    failures: tuple[datetime, ...] = ()
    """Of those that may still count, the oldest first."""
    wait_s: float = 0.0
    """How long it stays open, or stayed before the probe; 0 while CLOSED."""
    until: datetime | None = None
    """OPEN: when a probe may be made. HALF_OPEN: when the probe counts as lost."""
    epoch: int = 0
    """Counts its changes of state: what was called under another one says nothing of now."""

    def admit(self, now: datetime, limits: Limits) -> Breaker | None:
        """The breaker after a call was let through; None where it was not.

        The call is to be reported with the epoch that this breaker has.
        """
        if self.state is State.CLOSED:
            return self
        assert self.until is not None
        if now < self.until:
            return None
        until = now + timedelta(seconds=limits.probe_s)
        return replace(self, state=State.HALF_OPEN, until=until, epoch=self.epoch + 1)

    def succeeded(self, epoch: int) -> Breaker:
        """After a call of this epoch was answered, be it by a refusal: the other side is there."""
        if epoch != self.epoch or self.state is not State.HALF_OPEN:
            return self
        return Breaker(epoch=self.epoch + 1)

    def failed(self, epoch: int, now: datetime, limits: Limits) -> Breaker:
        """After a call of this epoch was not answered."""
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
        """After a call of this epoch was not made at all: another one may be the probe."""
        if epoch != self.epoch or self.state is not State.HALF_OPEN:
            return self
        return replace(self, state=State.OPEN, until=now, epoch=self.epoch + 1)

    def is_open(self, now: datetime) -> bool:
        """Whether no call goes through, nor would the next one be the probe."""
        return self.state is State.OPEN and self.until is not None and now < self.until

    def _opened(self, wait_s: float, now: datetime) -> Breaker:
        until = now + timedelta(seconds=wait_s)
        return replace(self, state=State.OPEN, wait_s=wait_s, until=until, epoch=self.epoch + 1)
