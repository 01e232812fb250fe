"""One native thread beside the hub, for work that may block: greenlets hand it over and wait for its end.

It keeps the order of what it is given and decides nothing. gevent's own pool makes a watcher and a semaphore for each
piece of work, which takes the hub longer than a small write takes the disk.
"""

from __future__ import annotations

from _queue import SimpleQueue  # queue.SimpleQueue is gevent's where that has patched; this one blocks natively
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import gevent
import gevent.monkey
from gevent.event import AsyncResult

T = TypeVar("T")

_start_native_thread = gevent.monkey.get_original("_thread", "start_new_thread")


class SideThread:
    """Starts with its first work, and ends with the process. Made and used in the hub's own thread."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], Callable[[], None]]] = SimpleQueue()
        self._ended: deque[Callable[[], None]] = deque()
        # The one thing of gevent's loop that other threads may touch.
        self._async = gevent.get_hub().loop.async_()
        self._started = False

    def start(self, work: Callable[[], T]) -> AsyncResult[T]:
        """Have ``work`` done, which raises nothing; the answer is set in the hub."""
        answer: AsyncResult[T] = AsyncResult()

        def do() -> Callable[[], None]:
            found = work()
            return lambda: answer.set(found)

        self._work.put(do)
        if not self._started:
            self._started = True
            self._async.start(self._tell)
            _start_native_thread(self._run, ())
        return answer

    def _run(self) -> None:
        while True:
            self._ended.append(self._work.get()())
            self._async.send()

    def _tell(self) -> None:
        while self._ended:
            self._ended.popleft()()
