"""What breaks and when, made from a seed. When is counted in deeds that clients have done.

A clock would make another run of every run; deeds go on, more slowly, while something is down.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

Verb = Literal["kill", "start", "pause", "resume", "crash", "curse", "lift", "retry", "rebuild"]

FIRST_STEP = 40
GAP_STEPS = (20, 250)
"""Between the beginnings of two faults; how long they last may overlap."""
OUTAGE_STEPS = (3, 150)
CURSE_STEPS = (400, 1_500)
RETRY_AFTER_STEPS = 60

PROJECTORS = ("projector-1", "projector-2")
KAFKA = ("broker", "relay")


@dataclass(frozen=True)
class Act:
    """One thing that is done to the house."""

    step: int
    verb: Verb
    target: str = ""

    def __str__(self) -> str:
        return f"{self.step:>7} {self.verb} {self.target}".rstrip()


@dataclass(frozen=True)
class Cast:
    """Who is there to be broken."""

    clients: tuple[str, ...]
    projections: tuple[str, ...]
    with_kafka: bool = False


Drawn = list[tuple[int, Verb, str]]
"""Steps after the beginning of the fault, and what is done then."""


def plan(seed: int, cast: Cast) -> Iterator[Act]:
    """The acts, in order of step, without end."""
    random = Random(f"{seed}/plan")
    waiting: list[tuple[int, int, Act]] = []
    numbers = count()
    begins = FIRST_STEP
    while True:
        for after, verb, target in _fault(random, cast):
            act = Act(begins + after, verb, target)
            heapq.heappush(waiting, (act.step, next(numbers), act))
        begins += random.randint(*GAP_STEPS)
        while waiting and waiting[0][0] <= begins:
            yield heapq.heappop(waiting)[2]


def _fault(random: Random, cast: Cast) -> Drawn:
    """One fault and its end."""
    deaths: list[tuple[int, Sequence[str]]] = [
        (4, [random.choice(PROJECTORS)]),
        (1, PROJECTORS),
        (3, ["api"]),
        (2, ["postgres"]),
        (2, [random.choice(cast.clients)]),
    ]
    pauses: list[tuple[int, Sequence[str]]] = [
        (4, [random.choice(PROJECTORS)]),
        (1, ["api"]),
        (1, ["postgres"]),
        (2, [random.choice(cast.clients)]),
    ]
    if cast.with_kafka:
        deaths += [(1, ["broker"]), (3, ["relay"])]
        pauses += [(1, ["broker"]), (2, ["relay"])]
    length = random.randint(*OUTAGE_STEPS)
    drawn: list[tuple[int, Drawn]] = [
        *[(weight, _outage("kill", "start", targets, length)) for weight, targets in deaths],
        *[(weight, _outage("pause", "resume", targets, length)) for weight, targets in pauses],
        (1, [(0, "crash", "postgres")]),
        (2, _spell(random)),
        (2, _rebuild(random, cast)),
    ]
    return random.choices([fault for _, fault in drawn], [weight for weight, _ in drawn])[0]


def _outage(begin: Verb, end: Verb, targets: Sequence[str], length: int) -> Drawn:
    return [(after, verb, each) for after, verb in ((0, begin), (length, end)) for each in targets]


def _spell(random: Random) -> Drawn:
    lifted = random.randint(*CURSE_STEPS)
    return [(0, "curse", ""), (lifted, "lift", ""), (lifted + RETRY_AFTER_STEPS, "retry", "")]


def _rebuild(random: Random, cast: Cast) -> Drawn:
    """A rebuild, which is let finish or killed on the way."""
    begin: Drawn = [(0, "rebuild", random.choice(cast.projections))]
    dies = random.randint(*CURSE_STEPS) if random.random() < 0.5 else None
    return begin if dies is None else [*begin, (dies, "kill", "rebuild")]
