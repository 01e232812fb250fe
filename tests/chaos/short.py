"""A chaos run short enough for the suite: a minute where CI runs it, a quarter of one elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from .run import run
from .system import Load

PER_SECOND = 250.0
"""Calls: other tests run beside it."""


def shake(folder: Path, seed: int) -> None:
    """Run; AssertionError with the verdict if anything is wrong."""
    seconds = 60.0 if os.environ.get("CI") == "true" else 15.0
    verdict = run(folder, Load(seconds=seconds, seed=seed, per_second=PER_SECOND), print)
    print(verdict)
    assert verdict.accepted > 100
    assert not verdict.problems, f"seed {seed}: {verdict}"
