"""Keeps outcomes for all ackers of a process: what waits while one write is under way becomes the next one.

The store is written by a native thread of its own, so neither a slow disk nor handlers that fill gevent's shared
thread pool hold up anything else. While outcomes cannot be kept the process takes no new messages; nothing is
dropped but what belongs to a lost lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import gevent
from gevent.event import AsyncResult, Event

from taskstream.results.base import Outcome, ResultStore

from .backoff import Backoff
from .clock import boottime
from .membership import Membership
from .side_thread import SideThread

SLOW_S = 5.0
"""A write that takes longer counts as one that does not get through, until it does."""

WAIT_S = 0.02
"""How often leases are looked at while none of those who wait is known to hold."""


class Keeper:
    """One writer per process. ``on_paused(reason)`` tells that outcomes cannot be kept; None: they can again."""

    def __init__(self, store: ResultStore, on_paused: Callable[[str | None], None]) -> None:
        self._store = store
        self._on_paused = on_paused
        self._waiting: list[_Request] = []
        self._wake = Event()
        self._thread = SideThread()
        self._paused = False
        self._writing = False

    def start(self) -> None:
        """Start the greenlet; it ends with the process."""
        gevent.spawn(self._run)

    def keep(self, membership: Membership, outcomes: Sequence[Outcome]) -> bool:
        """Return True as soon as ``outcomes`` are kept, False if the lease is lost; wait as long as it takes.

        Raises what the store raises beside OSError.
        """
        request = _Request(membership, outcomes)
        self._waiting.append(request)
        self._wake.set()
        return request.answer.get() is True

    def close(self, timeout: float) -> None:
        """Close the store, unless it is hung in a write; waits ``timeout`` seconds at most."""
        if not self._writing:
            self._thread.start(partial(_attempt, self._store.close)).wait(timeout)

    def _run(self) -> None:
        backoff = Backoff(0.1, 2.0)
        while True:
            if not self._waiting:
                self._wake.wait()
                self._wake.clear()
                continue
            sure = self._sure()
            if not sure:
                gevent.sleep(WAIT_S if self._waiting else 0)
                continue
            error = self._write([outcome for request in sure for outcome in request.outcomes])
            if isinstance(error, OSError):
                self._pause(f"results cannot be written: {error}")
                gevent.sleep(backoff.next())
                continue
            # Any other error is nothing that time mends: whoever asked has to know.
            self._settle(sure, error)
            self._go_on()
            backoff.reset()

    def _sure(self) -> list[_Request]:
        """Those who wait whose lease is known to hold; who lost it is told so."""
        now = boottime()
        for request in [one for one in self._waiting if one.membership.lost]:
            self._waiting.remove(request)
            request.answer.set(False)
        if not self._waiting:
            self._go_on()
        return [request for request in self._waiting if now < request.membership.deadline]

    def _settle(self, requests: list[_Request], error: Exception | None) -> None:
        for request in requests:
            self._waiting.remove(request)
            if error is None:
                request.answer.set(True)
            else:
                request.answer.set_exception(error)

    def _write(self, outcomes: list[Outcome]) -> Exception | None:
        self._writing = True
        done = self._thread.start(partial(_attempt, self._store.write, outcomes))
        done.wait(SLOW_S)
        if not done.ready():
            self._pause(
                f"results cannot be written: {self._store.url} has not answered for {SLOW_S:g} s: check the disk"
            )
        error = done.get()
        self._writing = False
        return error

    def _pause(self, reason: str) -> None:
        if not self._paused:
            self._paused = True
            self._on_paused(reason)

    def _go_on(self) -> None:
        if self._paused:
            self._paused = False
            self._on_paused(None)


class _Request:
    """Outcomes of one acker's batch, and what becomes of them."""

    __slots__ = ("answer", "membership", "outcomes")

    def __init__(self, membership: Membership, outcomes: Sequence[Outcome]) -> None:
        self.membership = membership
        self.outcomes = outcomes
        self.answer: AsyncResult[bool] = AsyncResult()


def _attempt(work: Callable[..., None], *arguments: object) -> Exception | None:
    """Run in the thread; what it raises is returned, because nobody would see it there."""
    try:
        work(*arguments)
    except Exception as error:
        return error
    return None
