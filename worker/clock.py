"""The local clock for deadlines: one that also runs while the machine sleeps, so that no lease seems fresh after it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


boottime: Callable[[], float] = functools.partial(time.clock_gettime, _CLOCK)
"""Seconds on CLOCK_BOOTTIME (CLOCK_MONOTONIC where the system has no such clock). No function of Python, since it is
asked twice a message."""
