"""Explicit-state search: breadth first, so that the first trace found is a shortest one; and random walks."""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple

from .invariants import problem
from .rules import ALL, STUCK
from .state import Scenario
from .world import Step, World

CALM = 0.7


class Found(NamedTuple):
    """A counterexample."""

    problem: str
    trace: list[Step]

    def __str__(self) -> str:
        lines = [f"{number:3} {said(step)}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([f"{self.problem}:", *lines])


def said(step: Step) -> str:
    """A step in words."""
    if step[0] == "arrive":
        name, who, _, consumer, *_ = step[1]
        return f"arrive: the {name} that {who} sent as {consumer}"
    return " ".join(map(str, step))


class Result(NamedTuple):
    """What a search saw; ``complete`` unless it ended at a limit."""

    found: Found | None
    states: int
    complete: bool


def search(
    scenario: Scenario,
    on: frozenset[str] = ALL,
    *,
    live: bool = False,
    limit: int = 1_000_000,
    depth: int | None = None,
) -> Result:
    """Every state that ``scenario`` can reach, up to ``limit`` states or ``depth`` steps; with ``live``, whether each
    comes to rest.
    """
    start = World(scenario, on)
    for step in scenario.first:
        start.do(step)
    first = hash(start.key())
    came: dict[int, tuple[int, Step] | None] = {first: None}
    queue = deque([(first, start, 0)])

    def trace(key: int, *last: Step) -> list[Step]:
        steps = list(last)
        while (link := came[key]) is not None:
            key = link[0]
            steps.append(link[1])
        return [*scenario.first, *steps[::-1]]

    while queue:
        key, world, deep = queue.popleft()
        if len(came) >= limit or deep == depth:
            return Result(None, len(came), False)
        for step in world.steps():
            new = world.after(step)
            wrong = problem(world, step, new)
            if wrong is not None:
                return Result(Found(wrong, trace(key, step)), len(came), True)
            new_key = hash(new.key())
            if new_key in came:
                continue
            came[new_key] = (key, step)
            if live and not new.copy().settled():
                return Result(Found(STUCK, trace(new_key)), len(came), True)
            queue.append((new_key, new, deep + 1))
    return Result(None, len(came), True)


def pick(rng: random.Random, world: World) -> Step | None:
    """A step of a random walk: mostly one that gets on, or nothing but faults would happen."""
    steps = list(world.steps())
    calm = [step for step in steps if step[0] not in world.left and step[-1] not in ("lost", "late", "stop")]
    return rng.choice(calm if calm and rng.random() < CALM else steps) if steps else None


def walk(scenario: Scenario, on: frozenset[str], seed: int, length: int) -> Found | None:
    """One random walk, and rest at its end."""
    rng = random.Random(seed)
    world = World(scenario, on)
    trace: list[Step] = []
    for _ in range(length):
        step = pick(rng, world)
        if step is None:
            break
        trace.append(step)
        new = world.after(step)
        wrong = problem(world, step, new)
        if wrong is not None:
            return Found(wrong, trace)
        world = new
    return None if world.copy().settled() else Found(STUCK, trace)
