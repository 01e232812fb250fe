"""Speaks for processes that died: gives their leases up and tells what had started, until the broker has heard it.

A broker that is away holds up nothing else here: each turn tries once, and no longer than a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import redis

from taskstream.broker.group import ConsumerGroup
from taskstream.connection import Profile, passing
from taskstream.errors import ConfigError
from taskstream.link import Link
from taskstream.logs import FieldLogger

from .backoff import RECONNECT_MOST_S, Backoff
from .clock import boottime

MOST = 10_000
"""Consumers that wait for the broker at most; of older ones the lease runs out by itself."""


@dataclass
class _Release:
    worker: str
    url: str
    group: ConsumerGroup
    started: Mapping[str, str]


class Releases:
    """What is still to be told, and the links of the supervisor."""

    def __init__(self, log: FieldLogger) -> None:
        self._log = log
        self._waiting: deque[_Release] = deque(maxlen=MOST)
        self._links: dict[str, Link] = {}
        self._backoff = Backoff(0.1, RECONNECT_MOST_S)
        self._failing = False
        self._next = 0.0

    def add(self, worker: str, url: str, group: ConsumerGroup, started: Mapping[str, str]) -> None:
        """One consumer of a dead process; ``started`` as in ``ConsumerGroup.release``."""
        self._waiting.append(_Release(worker, url, group, started))

    @property
    def next(self) -> float | None:
        """Boottime (s) of the next turn that has something to do, None without any."""
        return self._next if self._waiting else None

    def turn(self) -> None:
        """Tell what can be told now."""
        while self._waiting and boottime() >= self._next:
            one = self._waiting[0]
            link: Link | None = None
            try:
                link = self.link(one.url)
                one.group.release(link.call, one.started)
            except (redis.RedisError, OSError, ConfigError, ValueError) as error:
                if link is not None:
                    link.close()
                if passing(error):
                    self._next = boottime() + self._backoff.next()
                    self._waiting.rotate(-1)
                    if not self._failing:
                        self._failing = True
                        self._log.warning("Lease cannot be given up, trying on", {"worker": one.worker, "error": error})
                    return
                # Somebody wrote nonsense over this group's keys; others may be fine.
                self._log.error("Lease cannot be given up", {"worker": one.worker, "error": error})
            self._failing = False
            self._backoff.reset()
            self._waiting.popleft()

    def finish(self, seconds: float) -> None:
        """The supervisor ends: tell the rest if the broker answers in time, else the leases run out by themselves."""
        until = boottime() + seconds
        while self._waiting and boottime() < until:
            self.turn()
            if self._waiting:
                time.sleep(max(0.0, min(self._next, until) - boottime()))

    def link(self, url: str) -> Link:
        """The supervisor's link to one broker, which never waits for longer than a second."""
        if url not in self._links:
            self._links[url] = Link(url, Profile(socket_timeout=1.0, connect_timeout=1.0))
        return self._links[url]
