"""``python -m tests.model``: search deeper than the suite does, or print what a rule is there for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests share the modules of this folder, as under pytest


def main() -> int:
    """Search; return 0 if nothing was found."""
    from model.rules import ALL, RULES, STUCK
    from model.scenarios import SCENARIOS, WALKS
    from model.search import search, walk

    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--rule", choices=RULES, help="print a shortest counterexample without this rule")
    parser.add_argument("--depth", type=int, help="search every state within N steps of the large scenarios")
    parser.add_argument("--walks", type=int, default=1000, help="else: random walks per scenario (default 1000)")
    parser.add_argument("--length", type=int, default=100, help="steps of a walk (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="the first walk's seed (default 0)")
    options = parser.parse_args()
    if options.rule:
        text, breaks = RULES[options.rule]
        result = search(SCENARIOS[options.rule], ALL - {options.rule}, live=breaks == STUCK)
        print(f"the rule: {text}\nwithout it, {result.found or 'nothing is found'}")
        return 0 if result.found else 1
    for number, scenario in enumerate(WALKS):
        if options.depth is not None:
            result = search(scenario, depth=options.depth)
            found, seen = result.found, f"{result.states} states"
        else:
            seeds = range(options.seed, options.seed + options.walks)
            found = next(filter(None, (walk(scenario, ALL, seed, options.length) for seed in seeds)), None)
            seen = f"{options.walks} walks"
        print(f"scenario {number}, {seen}: {found or 'nothing found'}", flush=True)
        if found:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
