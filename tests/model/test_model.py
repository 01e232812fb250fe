"""The protocol holds with all of its rules, and with any one taken away it does not.

A failing test prints the trace; ``python -m tests.model --rule NAME`` prints what a rule is there for.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from model.rules import ALL, RULES, STUCK
from model.scenarios import SCENARIOS, WALKS
from model.search import search, walk

WALK_SEEDS = 60
WALK_LENGTH = 80


@pytest.mark.parametrize("rule", RULES)
def test_taking_away(rule: str, record_property: Callable[[str, object], None]) -> None:
    """Without this one rule a shortest counterexample breaks what the rule is there for."""
    _, breaks = RULES[rule]
    result = search(SCENARIOS[rule], ALL - {rule}, live=breaks == STUCK)
    assert result.found is not None, f"without {rule!r} nothing breaks in {result.states} states"
    print(f"without {rule!r}: {result.found}")
    record_property("trace", str(result.found))
    assert result.found.problem == breaks


@pytest.mark.parametrize("rule", RULES)
def test_all_rules_together(rule: str) -> None:
    """In the same scenario, searched to its end, nothing breaks with all rules on."""
    result = search(SCENARIOS[rule], live=RULES[rule][1] == STUCK)
    assert result.found is None, str(result.found)
    assert result.complete


@pytest.mark.parametrize("scenario", WALKS)
def test_everything_at_once(scenario: object) -> None:
    """Random walks through larger scenarios with every fault, each brought to rest at its end."""
    for seed in range(WALK_SEEDS):
        found = walk(scenario, ALL, seed, WALK_LENGTH)
        assert found is None, f"seed {seed}: {found}"
