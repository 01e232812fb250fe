"""Counts what a process does, logs STATS lines while there is traffic, and says how the worker is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gevent

from taskstream.broker import Broker
from taskstream.errors import TaskstreamError
from taskstream.logs import FieldLogger

from .memory import resident
from .outcomes import now_ms

if TYPE_CHECKING:
    from .consumer import Consumer

STATS_S = 5.0
ANNOUNCE_S = 2.0
SOON_S = 0.2
"""How soon after the start it is told that the worker has begun to read."""

TTL_S = 10


class SubscriptionStats:
    """Totals of one subscription since the process started, and since the last STATS line."""

    def __init__(self, log: FieldLogger, fields: dict[str, object]) -> None:
        self.consumed = 0
        self.errors = 0
        self.retried = 0
        self.rate = 0.0
        self.avg_ms = 0.0
        self._log = log
        self._fields = fields
        self._since = time.monotonic()
        self._count = 0
        self._elapsed_ms = 0.0

    def count(self, move: str, elapsed_ms: float) -> None:
        """One message ran for ``elapsed_ms`` and ended by ``move``."""
        self._count += 1
        self._elapsed_ms += elapsed_ms
        if move != "a":
            if move == "r":
                self.retried += 1
            self.errors += 1

    def log(self) -> None:
        """Close the present interval: new rate and mean; a STATS line if anything was consumed in it."""
        now = time.monotonic()
        count, self._count = self._count, 0
        elapsed_ms, self._elapsed_ms = self._elapsed_ms, 0.0
        self.consumed += count
        self.rate = count / max(now - self._since, 1e-9)
        self._since = now
        if not count:
            return
        self.avg_ms = elapsed_ms / count
        self._log.info(
            "STATS",
            {
                **self._fields,
                "metrics.stream.total_consumed_events": self.consumed,
                "metrics.stream.total_errors": self.errors,
                "metrics.stream.avg_rate": round(self.rate, 3),
                "metrics.stream.avg_event_duration": round(self.avg_ms, 3),
            },
        )

    @property
    def total(self) -> int:
        """Messages that ran since the process started."""
        return self.consumed + self._count


class Reporter:
    """Logs STATS and announces the worker's state in Redis every few seconds."""

    def __init__(
        self,
        broker: Broker,
        worker: str,
        consumers: Sequence[Consumer],
        state: Callable[[], dict[str, Any]],
        log: FieldLogger,
    ) -> None:
        self._broker = broker
        self._worker = worker
        self._consumers = consumers
        self._state = state
        self._log = log
        self._started_ms = now_ms()

    def start(self) -> None:
        """Start both greenlets."""
        gevent.spawn(self._log_stats)
        gevent.spawn(self._announce)

    def info(self) -> dict[str, Any]:
        """What this worker says about itself."""
        return {
            "name": self._worker,
            "host": platform.node(),
            "pid": os.getpid(),
            "started_ms": self._started_ms,
            **self._state(),
            "processed": sum(consumer.stats.total for consumer in self._consumers),
            "failed": sum(consumer.stats.errors for consumer in self._consumers),
            "retried": sum(consumer.stats.retried for consumer in self._consumers),
            "rss": resident(os.getpid()),
            "subscriptions": [
                {
                    "label": consumer.subscription.label,
                    "stream": consumer.subscription.stream,
                    "group": consumer.subscription.group,
                    "state": consumer.state,
                    "consumed": consumer.stats.total,
                    "errors": consumer.stats.errors,
                    "rate": round(consumer.stats.rate, 3),
                    "avg_ms": round(consumer.stats.avg_ms, 3),
                }
                for consumer in self._consumers
            ],
        }

    def announce(self) -> str:
        """Tell Redis now; a broker that is away is told later. Returns the state that was told."""
        info = self.info()
        try:
            self._broker.announce_worker(self._worker, info, TTL_S)
        except TaskstreamError as error:
            self._log.debug("State cannot be announced", {"error": error})
        return str(info["state"])

    def _announce(self) -> None:
        while True:
            gevent.sleep(SOON_S if self.announce() == "starting" else ANNOUNCE_S)

    def _log_stats(self) -> None:
        while True:
            gevent.sleep(STATS_S)
            for consumer in self._consumers:
                consumer.stats.log()
