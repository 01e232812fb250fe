"""The local clock for deadlines: one that also runs while the machine sleeps, so that no lease seems fresh after it."""

from __future__ import annotations

import time

_clock_gettime = time.clock_gettime
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME (CLOCK_MONOTONIC where the system has no such clock)."""
    return _clock_gettime(_CLOCK)
