"""How greenlets wait for coroutines of the bridge (taskstream/aio.py), and how its thread wakes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import gevent.hub
from gevent import monkey
from greenlet import getcurrent, greenlet

from taskstream.aio import Backend, LockWaiter

_start_new_thread = monkey.get_original("_thread", "start_new_thread")
_allocate_lock = monkey.get_original("_thread", "allocate_lock")


class GreenletWaiter:
    """A waiter of one greenlet of the backend's hub; gevent's own Waiter costs half as much again."""

    __slots__ = ("_greenlet", "_hub", "_woken")

    def __init__(self, hub: gevent.hub.Hub) -> None:
        self._hub = hub
        self._greenlet: greenlet | None = None
        self._woken = False

    def wait(self) -> None:
        """See taskstream.aio.Waiter."""
        self._greenlet = getcurrent()
        try:
            while not self._woken:
                self._hub.switch()
        finally:
            self._greenlet = None

    def wait_for(self, seconds: float) -> bool:
        """See taskstream.aio.Waiter."""
        timeout = gevent.Timeout.start_new(seconds)
        try:
            self.wait()
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
        finally:
            timeout.close()
        return self._woken

    def wake(self) -> None:
        """Continue the greenlet now, if it waits. Called in the hub."""
        self._woken = True
        waiting = self._greenlet
        if waiting is not None:
            waiting.switch()


class GeventBackend:
    """For the process's main hub; made in its thread. Other native threads may call as well and block."""

    patched = True

    def __init__(self) -> None:
        self._hub = gevent.get_hub()
        self._thread_id = threading.get_native_id()  # of the system; get_ident names greenlets where patched
        self._woken: deque[GreenletWaiter] = deque()
        self._announced = False
        # The one thing of gevent's loop that other threads may touch (libev and libuv: "async").
        self._async = self._hub.loop.async_()
        self._async.start(self._continue)

    def start_thread(self, target: Callable[[], None]) -> None:
        """A thread of the operating system, whatever is patched."""
        _start_new_thread(target, ())

    def waiter(self) -> GreenletWaiter | LockWaiter:
        """For a greenlet of the main hub; callers in other native threads block natively."""
        if threading.get_native_id() == self._thread_id:
            return GreenletWaiter(self._hub)
        return LockWaiter(_allocate_lock)

    def wake(self, waiters: Sequence[Any]) -> None:
        """Called in the loop's thread. Greenlets are continued by their hub, after one signal per burst."""
        for waiter in waiters:
            if type(waiter) is GreenletWaiter:
                self._woken.append(waiter)
            else:
                waiter.wake()
        if self._woken and not self._announced:
            self._announced = True
            self._async.send()

    def _continue(self) -> None:
        self._announced = False
        woken = self._woken
        while woken:
            woken.popleft().wake()


def gevent_backend() -> Backend:
    """For the bridge of this process. Called in the main hub."""
    return GeventBackend()
