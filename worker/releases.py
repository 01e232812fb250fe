"""Speaks for processes that died: gives their leases up and tells what had started, until the broker has heard it.

A broker that is away holds up nothing else here: each turn tries once, and no longer than a second. What it takes to
speak to a broker (``proxy.py``) is loaded when there is something to say, which in most pools is never.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from taskstream.logs import FieldLogger

from .backoff import RECONNECT_MOST_S, Backoff
from .clock import boottime
from .told import Lease, NotNow

if TYPE_CHECKING:
    from .proxy import Proxy

MOST = 10_000
"""Consumers that wait for the broker at most; of older ones the lease runs out by itself."""


class _Release(NamedTuple):
    worker: str
    lease: Lease
    started: Mapping[str, str]


class Releases:
    """What is still to be told."""

    def __init__(self, log: FieldLogger) -> None:
        self._log = log
        self._waiting: deque[_Release] = deque(maxlen=MOST)
        self._proxy: Proxy | None = None
        self._backoff = Backoff(0.1, RECONNECT_MOST_S)
        self._failing = False
        self._next = 0.0

    def add(self, worker: str, lease: Lease, started: Mapping[str, str]) -> None:
        """One consumer of a dead process; ``started`` as in ``ConsumerGroup.release``."""
        self._waiting.append(_Release(worker, lease, started))

    @property
    def next(self) -> float | None:
        """Boottime (s) of the next turn that has something to do, None without any."""
        return self._next if self._waiting else None

    def turn(self) -> None:
        """Tell what can be told now."""
        while self._waiting and boottime() >= self._next:
            one = self._waiting[0]
            try:
                self.proxy().release(one.lease, one.started)
            except NotNow as refusal:
                self._next = boottime() + self._backoff.next()
                self._waiting.rotate(-1)
                if not self._failing:
                    self._failing = True
                    said = {"worker": one.worker, "error": refusal.__cause__}
                    self._log.warning("Lease cannot be given up, trying on", said)
                return
            except Exception as error:
                # Somebody wrote nonsense over this group's keys; others may be fine.
                self._log.error("Lease cannot be given up", {"worker": one.worker, "error": error})
            self._failing = False
            self._backoff.reset()
            self._waiting.popleft()

    def finish(self, seconds: float) -> None:
        """The supervisor ends: tell the rest if the broker answers in time, else the leases run out by themselves."""
        if self._waiting:
            self.prepare()  # the time is the broker's, and on a busy machine loading alone may take as long
        until = boottime() + seconds
        while self._waiting and boottime() < until:
            self.turn()
            if self._waiting:
                time.sleep(max(0.0, min(self._next, until) - boottime()))

    def prepare(self) -> None:
        """Load what speaks to brokers, if that can be: it may be needed in a hurry."""
        with contextlib.suppress(NotNow):
            self.proxy()

    def proxy(self) -> Proxy:
        """Who speaks to brokers. Raises NotNow where it cannot be loaded: no memory or descriptor left, perhaps."""
        if self._proxy is None:
            try:
                from .proxy import Proxy  # the client library is 13 MiB and 0.3 s of CPU
            except (OSError, MemoryError, ImportError) as error:
                raise NotNow from error
            self._proxy = Proxy()
        return self._proxy
