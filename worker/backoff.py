"""Growing pauses with jitter, for loops that wait for the world to mend."""

from __future__ import annotations

import random

RECONNECT_MOST_S = 0.8
"""Longest pause between tries to reach the broker: once it is back, messages are to run again within 2 s."""


class Backoff:
    """``next()`` gives seconds to wait: between half and all of a span that doubles from ``first`` to ``most``."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._span = first

    def next(self) -> float:
        """The next pause in seconds."""
        span, self._span = self._span, min(self._span * 2, self._most)
        return random.uniform(span / 2, span)

    def reset(self) -> None:
        """Start over after a success."""
        self._span = self._first
