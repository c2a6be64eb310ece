"""The schedule of faults, drawn from a seed. Time is counted in commands that clients have sent.

With a clock no two runs would be alike. Clients send commands, more slowly, during an outage too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

Verb = Literal[
    "kill",
    "start",
    "pause",
    "resume",
    "crash",
    "break",
    "fix",
    "retry",
    "rebuild",
    "fail",
    "heal",
]

FIRST_STEP = 40
GAP_STEPS = (20, 250)
"""Minimum and maximum gap between the starts of two faults, which may overlap."""
OUTAGE_STEPS = (3, 150)
BROKEN_STEPS = (400, 1_500)
RETRY_AFTER_STEPS = 60

PROJECTORS = ("projector-1", "projector-2")
KAFKA = ("broker", "relay")
GATEWAY_FAULTS = ("timeout", "lost", "cut", "429", "500", "503")
"""How the SMS gateway fails: without an answer, after it accepted the message, or with a status."""


@dataclass(frozen=True)
class FaultAction:
    """One action on a process of the system."""

    step: int
    verb: Verb
    target: str = ""

    def __str__(self) -> str:
        return f"{self.step:>7} {self.verb} {self.target}".rstrip()


@dataclass(frozen=True)
class Targets:
    """Everything that the plan may break."""

    clients: tuple[str, ...]
    projections: tuple[str, ...]
    with_kafka: bool = False


Drawn = list[tuple[int, Verb, str]]
"""Actions of one fault: steps after its start, verb and target."""


def plan_faults(seed: int, targets: Targets) -> Iterator[FaultAction]:
    """Yield actions in order of step, without end."""
    random = Random(f"{seed}/plan")
    waiting: list[tuple[int, int, FaultAction]] = []
    numbers = count()
    begins = FIRST_STEP
    while True:
        for after, verb, target in _fault(random, targets):
            action = FaultAction(begins + after, verb, target)
            heapq.heappush(waiting, (action.step, next(numbers), action))
        begins += random.randint(*GAP_STEPS)
        while waiting and waiting[0][0] <= begins:
            yield heapq.heappop(waiting)[2]


def _fault(random: Random, targets: Targets) -> Drawn:
    """Draw one fault: the actions that start it and end it."""
    deaths: list[tuple[int, Sequence[str]]] = [
        (4, [random.choice(PROJECTORS)]),
        (1, PROJECTORS),
        (3, ["api"]),
        (2, ["postgres"]),
        (2, [random.choice(targets.clients)]),
        (3, ["worker"]),
        (2, ["sender"]),
    ]
    pauses: list[tuple[int, Sequence[str]]] = [
        (4, [random.choice(PROJECTORS)]),
        (1, ["api"]),
        (1, ["postgres"]),
        (2, [random.choice(targets.clients)]),
        (2, ["worker"]),
        (1, ["sender"]),
    ]
    if targets.with_kafka:
        deaths += [(1, ["broker"]), (3, ["relay"])]
        pauses += [(1, ["broker"]), (2, ["relay"])]
    length = random.randint(*OUTAGE_STEPS)
    drawn: list[tuple[int, Drawn]] = [
        *[(weight, _outage("kill", "start", targets, length)) for weight, targets in deaths],
        *[(weight, _outage("pause", "resume", targets, length)) for weight, targets in pauses],
        (1, [(0, "crash", "postgres")]),
        (2, [(0, "fail", random.choice(GATEWAY_FAULTS)), (length, "heal", "")]),
        (2, _projection_fault(random)),
        (2, _rebuild(random, targets)),
    ]
    return random.choices([fault for _, fault in drawn], [weight for weight, _ in drawn])[0]


def _outage(begin: Verb, end: Verb, targets: Sequence[str], length: int) -> Drawn:
    return [(after, verb, each) for after, verb in ((0, begin), (length, end)) for each in targets]


def _projection_fault(random: Random) -> Drawn:
    fixed_at = random.randint(*BROKEN_STEPS)
    return [(0, "break", ""), (fixed_at, "fix", ""), (fixed_at + RETRY_AFTER_STEPS, "retry", "")]


def _rebuild(random: Random, targets: Targets) -> Drawn:
    """Draw a rebuild that completes or is killed."""
    begin: Drawn = [(0, "rebuild", random.choice(targets.projections))]
    dies = random.randint(*BROKEN_STEPS) if random.random() < 0.5 else None
    return begin if dies is None else [*begin, (dies, "kill", "rebuild")]
