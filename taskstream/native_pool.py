"""A small pool of native threads behind an event loop, free of anything gevent patches."""

from __future__ import annotations

import asyncio
from _queue import SimpleQueue  # queue.SimpleQueue is replaced by gevent; this one always blocks natively
from collections.abc import Callable
from typing import Any

MAX_THREADS = 16

_Work = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class NativePool:
    """Runs blocking functions for coroutines. Threads start when there is work for one more."""

    def __init__(self, start_thread: Callable[[Callable[[], None]], None]) -> None:
        self._start_thread = start_thread
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0

    def submit(self, loop: asyncio.AbstractEventLoop, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run ``func(*args)`` in a thread; a future of ``loop``. Called in the loop's thread."""
        future: asyncio.Future[Any] = loop.create_future()
        self._work.put((loop, future, func, args))
        if self._work.qsize() > self._idle and self._threads < MAX_THREADS:
            self._threads += 1
            self._start_thread(self._serve)
        return future

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        for _ in range(self._threads):
            self._work.put(None)

    def _serve(self) -> None:
        while True:
            # A hint only: two threads may count at once, and then a thread more is started than needed.
            self._idle += 1
            work = self._work.get()
            self._idle -= 1
            if work is None:
                return
            loop, future, func, args = work
            try:
                value, error = func(*args), None
            except BaseException as problem:
                value, error = None, problem
            try:
                loop.call_soon_threadsafe(_settle, future, value, error)
            except RuntimeError:  # the loop was closed meanwhile; nobody waits
                return
            del work, loop, future, func, args, value, error


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if isinstance(error, StopIteration):  # a future cannot hold one (PEP 479)
        error = RuntimeError(f"function raised StopIteration: {error}")
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
