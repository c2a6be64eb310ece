"""Decisions: what a command does to entities, apart from how and in which transaction it is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from commands.loaded import LoadedEntities
from domain.shared.entity import Entity
from eventlog.scope import Scope
from eventlog.store.log import EventLog

R = TypeVar("R")

DECIDE_ATTEMPTS_MAX = 12
"""Maximum number of attempts of a command that meets concurrent writes."""
DECIDE_WAIT_S = 0.01
DECIDE_WAIT_MAX_S = 0.25
"""The pause before each attempt after the second is random. Its upper bound starts at the first of
these values and doubles up to the second."""


@dataclass(frozen=True)
class CommandOutcome:
    """The entity after the command, and a log position that includes the command's events."""

    entity: Entity
    position: int


@dataclass(frozen=True)
class Decision:
    """What a command decides, on entities that are loaded for it."""

    decide: Callable[[LoadedEntities], Entity]
    """Decides, stages the events, and returns the entity. It may be called again with newer states,
    after a concurrent write."""
    ids: tuple[UUID, ...] = ()
    """The entities that it certainly needs, so that they are loaded together."""
    shared: tuple[UUID, ...] = ()
    """Accounts that it adds an entity to. They are locked before anything is loaded."""
    exclusive: tuple[UUID, ...] = ()
    """Accounts that it changes together with their children; locked likewise."""
    is_retried: bool = True
    """Whether it is made again after a concurrent write to one of its entities."""
    runs_alone: bool = False
    """Whether it needs a transaction of its own, because it claims time or reads children."""

    @classmethod
    def refused(cls, error: Exception) -> Decision:
        """A decision that raises this error."""

        def decide(_loaded: LoadedEntities) -> NoReturn:
            raise error

        return cls(decide)


def run_decision(log: EventLog, scope: Scope, decision: Decision) -> CommandOutcome:
    """Load, decide and append in this scope. Raises what the decision raises, and `TimeTaken`."""

    def try_once() -> CommandOutcome:
        # Without accounts there is nothing to lock, and load and append are one statement each.
        locks = decision.shared or decision.exclusive
        with log.transaction(scope) if locks else log.scoped(scope):
            loaded = LoadedEntities(log)
            loaded.lock_accounts(shared=decision.shared, exclusive=decision.exclusive)
            entity = decision.decide(loaded)
            return CommandOutcome(entity, loaded.append())

    return retry_on_conflict(try_once) if decision.is_retried else try_once()


def retry_on_conflict(decide: Callable[[], R]) -> R:
    """Retry the decision after a concurrent write, at most `DECIDE_ATTEMPTS_MAX` times in all.

    A decision that expects a version is refused on its second attempt. Raises `IntegrityError`.
    """
    # Most commands meet no other write. The library takes a tenth of a command's CPU, so it only
    # repeats; the second attempt follows the first one without a pause.
    with suppress(IntegrityError):
        return decide()
    return Retrying(
        retry=retry_if_exception_type(IntegrityError),
        stop=stop_after_attempt(DECIDE_ATTEMPTS_MAX - 1),
        wait=wait_random_exponential(DECIDE_WAIT_S, DECIDE_WAIT_MAX_S),
        reraise=True,
    )(decide)
