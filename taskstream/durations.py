"""Durations as people write them (a number of seconds, or text such as ``12h``), and times as they read them. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_TEXT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

LONGEST_S = 100 * 366 * 86400.0
"""Hundred years: what is to be kept for longer is to be kept elsewhere, and sums with it stay exact."""

EXPECTED = 'a number of seconds above 0, or text such as "12h" or "7d" (s, m, h, d, w), at most 100 years'


def parse_duration(value: object) -> float:
    """Seconds that ``value`` says: an int or float, or text of a number and one of s, m, h, d, w (none: seconds).

    Raises ValueError (whose text is what was expected) for anything else, and for what is not above 0.
    """
    seconds = 0.0
    if isinstance(value, str):
        match = _TEXT.fullmatch(value.strip())
        if match:
            seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= LONGEST_S else math.inf
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(EXPECTED)
    return seconds


def moment(ms: int) -> str:
    """A time (ms since the epoch) in UTC, ISO 8601; the number itself where that is no time of a calendar."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, OSError, ValueError):
        return f"{ms} ms since 1970"
