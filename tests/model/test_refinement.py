"""The model is the protocol: the same steps on a real server, through the real scripts, lead to the same state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from model.mirror import DifferenceError, Mirror
from model.rules import ALL, RULES, STUCK
from model.sabotage import SABOTAGE, sabotaged
from model.scenarios import SCENARIOS, WALKS
from model.search import pick, search
from model.state import Scenario
from model.world import Step, World

from taskstream.broker import group, publisher
from taskstream.broker.publisher import Publisher
from taskstream.link import Link

SEEDS = range(4)
LENGTH = 60


@pytest.fixture
def new_mirror(broker_url: str) -> Iterator[Callable[[], Mirror]]:
    """Makes a server in step with a real one, both empty."""
    link, producer = Link(broker_url), Publisher(broker_url)
    yield lambda: Mirror(link, producer)
    link.close()
    producer.close()


def follow(world: World, trace: list[Step]) -> None:
    """Take the steps of a trace for as long as they are possible, then let everything come to rest."""
    for number, step in enumerate(trace):
        if number >= len(world.scenario.first) and step not in list(world.steps()):
            break
        world.do(step)
    assert world.settled()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", [pytest.param(one, id=str(n)) for n, one in enumerate(WALKS)])
def test_random_walks(new_mirror: Callable[[], Mirror], scenario: Scenario, seed: int) -> None:
    rng = random.Random(seed)
    world = World(scenario, ALL, new_mirror())
    world.left.pop("late_list", None)  # one call of the real one, which cannot be halted half-way
    for _ in range(LENGTH):
        if step := pick(rng, world):
            world.do(step)
    assert world.settled()


@pytest.mark.parametrize("rule", SABOTAGE)
def test_a_script_without_its_rule(
    new_mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """Along the model's counterexample a sabotaged script goes astray, and the real one does not."""
    found = search(SCENARIOS[rule], ALL - {rule}, live=RULES[rule][1] == STUCK).found
    assert found is not None
    follow(World(SCENARIOS[rule], ALL, new_mirror()), found.trace)
    script = sabotaged(rule)
    name = f"_{SABOTAGE[rule][0].upper()}"
    monkeypatch.setattr(publisher if name == "_PUBLISH" else group, name, script)
    with pytest.raises(DifferenceError):
        follow(World(SCENARIOS[rule], ALL, new_mirror()), found.trace)
