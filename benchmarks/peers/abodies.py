"""What the tasks do, for peers that run coroutines."""

from __future__ import annotations

import asyncio
import time

from benchmarks.peers.bodies import IO_S
from benchmarks.peers.probe import DONE, START, mark


async def noop(id: int, text: str) -> None:
    """Nothing."""
    mark(id)


async def timed(id: int, text: str, sent: float) -> None:
    """Nothing, but tell when it was sent."""
    mark(id, DONE, sent)


async def io(id: int, text: str) -> None:
    """Wait, as for a service elsewhere."""
    begun = time.time()
    await asyncio.sleep(IO_S)
    mark(id, DONE, begun)


async def crash(id: int, text: str, sent: float) -> None:
    """Wait, telling of the start as well."""
    mark(id, START, sent)
    await asyncio.sleep(IO_S)
    mark(id, DONE, sent)


async def add(id: int, text: str) -> int:
    """The value that callers wait for."""
    return id + 1


ALL = (noop, timed, io, crash, add)
