"""A short chaos run by a seed that stays the same, so that a change is measured against what was there before."""

from __future__ import annotations

from pathlib import Path

from chaos.short import shake


def test_every_call_is_accounted_for(tmp_path: Path) -> None:
    shake(tmp_path, seed=20)
