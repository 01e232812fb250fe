"""Requests that hold their thread for long: how many may, and their end when the server stops.

A thread of the server is held as long as a client waits for a result or for events. So only a part of them may be;
the others are there for whoever wants a short answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

DEFAULT_HELD = 8
"""How many threads may be held where nobody said how many there are (another WSGI server)."""


class Held:
    """A number of threads that may be held at once. Thread-safe."""

    def __init__(self, limit: int = DEFAULT_HELD) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._taken = 0
        self._stopping = False

    @property
    def taken(self) -> int:
        """How many are held now."""
        return self._taken

    @property
    def stopping(self) -> bool:
        """Whether the server stops: whoever holds a thread should give it back within a second."""
        return self._stopping

    def stop(self) -> None:
        """The server stops; no more threads may be held."""
        self._stopping = True

    def take(self) -> bool:
        """Hold a thread, unless as many as may be are held already; every True is followed by one ``give``."""
        with self._lock:
            if self._stopping or self._taken >= self.limit:
                return False
            self._taken += 1
            return True

    def give(self) -> None:
        """Hold one less."""
        with self._lock:
            self._taken -= 1

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Whether a thread may be held inside."""
        got = self.take()
        try:
            yield got
        finally:
            if got:
                self.give()
