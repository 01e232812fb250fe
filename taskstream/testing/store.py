"""``memory://NAME`` as a result store: outcomes in this process, for tests. Keeps everything until it is let go."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from taskstream.results.base import Outcome

_lock = threading.Lock()
_records: dict[str, dict[tuple[str, str], Outcome]] = {}


class MemoryStore:
    """A ResultStore; those of one URL share what they keep."""

    def __init__(self, url: str = "memory://") -> None:
        self.url = url
        with _lock:
            self._kept = _records.setdefault(url, {})

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Keep a batch."""
        with _lock:
            for one in outcomes:
                known = self._kept.get((one.id, one.group))
                if known is None or known.delivery <= one.delivery:
                    self._kept[one.id, one.group] = one

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        """The outcomes of a message."""
        with _lock:
            return [one for one in self._kept.values() if one.id == message_id and group in (None, one.group)]

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        """Nothing: a test is over before anything is too old."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


def open_store(url: str, *, base: Path, retention: float, fsync: str) -> MemoryStore:
    """What ``results="memory://NAME"`` is, by the entry point of this distribution."""
    return MemoryStore(url)


def forget(url: str) -> None:
    """Let go what stores of ``url`` kept."""
    with _lock:
        _records.pop(url, None)
