"""What the tasks do, for peers that run plain functions."""

from __future__ import annotations

import time

from benchmarks.peers.probe import DONE, START, mark

IO_S = 0.020


def noop(id: int, text: str) -> None:
    """Nothing."""
    mark(id)


def timed(id: int, text: str, sent: float) -> None:
    """Nothing, but tell when it was sent."""
    mark(id, DONE, sent)


def io(id: int, text: str) -> None:
    """Wait, as for a service elsewhere."""
    begun = time.time()
    time.sleep(IO_S)
    mark(id, DONE, begun)


def crash(id: int, text: str, sent: float) -> None:
    """Wait, telling of the start as well."""
    mark(id, START, sent)
    time.sleep(IO_S)
    mark(id, DONE, sent)


def add(id: int, text: str) -> int:
    """The value that callers wait for."""
    return id + 1


ALL = (noop, timed, io, crash, add)
