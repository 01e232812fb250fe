"""A short chaos run by a new seed each time, which is printed; ``CHAOS_SEED`` repeats one."""

from __future__ import annotations

import os
import random
from pathlib import Path

from chaos.short import shake


def test_every_call_is_accounted_for_whatever_the_seed(tmp_path: Path) -> None:
    shake(tmp_path, seed=int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000)))
