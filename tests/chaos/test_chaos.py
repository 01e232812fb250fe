"""A short chaos run. ``python -m tests.chaos --seed N`` repeats the disturbances of a printed seed, also for longer."""

from __future__ import annotations

import os
import random
from pathlib import Path

from chaos.run import run

SECONDS = 12.0


def test_every_call_is_accounted_for_whatever_dies(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    verdict = run(tmp_path, SECONDS, seed, print)
    print(verdict)
    assert verdict.accepted > 100
    assert not verdict.problems, f"seed {seed}: {verdict}"
