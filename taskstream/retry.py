"""Decides whether and when a failed message is tried again. Pure: randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable


def backoff_delay(
    retries: int, *, base: float, maximum: float, jitter: bool, uniform: Callable[[float, float], float]
) -> float:
    """Seconds to wait before retry number ``retries`` (0 for the first): exponential, capped.

    With ``jitter`` anywhere between 0 and that ("full jitter", AWS Architecture Blog 2015), so that
    messages that failed together do not come back together. ``uniform(a, b)`` is random.uniform or a fake.
    """
    # 2.0**1024 overflows; any cap is reached long before.
    delay = min(maximum, base * 2.0 ** min(retries, 63))
    return uniform(0.0, delay) if jitter else delay
