"""Says whether memory stayed flat through a chaos run, from the samples taken."""

from __future__ import annotations

from typing import Any

from .measures import growth
from .system import System

LONG_S = 300.0
"""From this length of a run on growth is judged; before, a process is hardly warm."""
WARM_UP_S = 60.0
LARGEST_MB = 250.0
GROWN_MB = 12.0
"""What the steady pool's processes may have grown from the first third of a long run to the last."""
KEY_MB, LETTER_MB, BROKER_MB = 0.0005, 0.008, 30.0
"""What the broker may take for a remembered id and a dead letter, and beside that for buffers and scripts."""


def judge_memory(system: System, seconds: float, letters: int) -> tuple[dict[str, Any], list[str]]:
    """Figures, and what is wrong with them; ``letters`` dead letters are kept."""
    assert system.sampler is not None
    figures: dict[str, Any] = {}
    problems = []
    for (role, pid), samples in system.sampler.memory.items():
        largest = max(size for _, size in samples)
        if largest > LARGEST_MB:
            problems.append(f"{role} {pid} grew to {largest:.0f} MB")
        lived = samples[-1][0] - samples[0][0]
        if seconds < LONG_S or lived < 0.6 * seconds:
            continue
        grown, per_minute = growth(samples, WARM_UP_S)
        figures[f"{role} {pid}"] = {
            "lived_s": round(lived),
            "last_mb": round(samples[-1][1], 1),
            "grown_mb": round(grown, 2),
            "mb_per_minute": round(per_minute, 3),
        }
        if grown > GROWN_MB:
            problems.append(f"{role} {pid} grew by {grown:.1f} MB over {lived:.0f} s")
    sizes = [size for one in system.sampler.memory.values() for _, size in one]
    figures["largest process, MB"] = round(max(sizes, default=0.0), 1)
    broker = system.sampler.broker
    if broker:
        kept = broker[-1][2] * KEY_MB + letters * LETTER_MB
        if broker[-1][1] - broker[0][1] > kept + BROKER_MB:
            problems.append(f"the broker keeps {broker[-1][1]:.0f} MB, {kept:.0f} MB of which are accounted for")
        grown, per_minute = growth([(at, size) for at, size, _ in broker], WARM_UP_S if seconds >= LONG_S else 0.0)
        figures["broker"] = {
            "last_mb": round(broker[-1][1], 1),
            "mb_per_minute": round(per_minute, 3),
            "keys": broker[-1][2],
        }
    return figures, problems
