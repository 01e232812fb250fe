"""Redis' clock as this process knows it, from answers that say the time; between two it counts on by its own.

It decides what has expired and what is due; it never asks Redis.
"""

from __future__ import annotations

from collections.abc import Callable

from .clock import boottime


class ServerClock:
    """Learns from any thread. Never ahead of the server, and behind it by no more than an answer was under way."""

    def __init__(self, now: Callable[[], float] = boottime) -> None:
        self._now = now
        self._offset_ms: float | None = None

    def learn(self, server_ms: int, received: float | None = None) -> None:
        """The server said ``server_ms`` (ms since the epoch) in an answer that came at ``received`` (boottime, s)."""
        self._offset_ms = server_ms - (self._now() if received is None else received) * 1000

    @property
    def known(self) -> bool:
        """Whether there was an answer."""
        return self._offset_ms is not None

    def now_ms(self) -> int:
        """The server's time, ms since the epoch; 0 while nothing is known of it, so that nothing is too late or due."""
        return 0 if self._offset_ms is None else int(self._offset_ms + self._now() * 1000)
