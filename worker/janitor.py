"""Housekeeping of one worker process: retention of results and dead letters, the register of labels, a look at the
broker's settings and at the folder of results. Nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gevent
import redis

from taskstream.broker import Broker
from taskstream.broker.health import eviction_risk, read_facts
from taskstream.connection import PRODUCER
from taskstream.errors import ConfigError, TaskstreamError
from taskstream.link import Link
from taskstream.logs import FieldLogger
from taskstream.results.base import ResultStore
from taskstream.results.probe import folder_of, unwritable

from .consumer import Consumer
from .outcomes import now_ms

ANNOUNCE_S = 10.0
"""How soon labels are known again after Redis came back empty."""

CLEAN_S = 60.0
SWEEP_COUNT = 10_000
FORGET_LABEL_S = 30 * 24 * 3600.0
FORGET_COUNT = 1_000


class Janitor:
    """Announces labels; deletes dead letters and outcomes past their retention, a bounded piece at a time.

    With ``warn`` it says once if the broker is set to delete work when it is full, or if results cannot be written;
    one process of a pool is to do that.
    """

    def __init__(
        self, broker: Broker, store: ResultStore | None, consumers: Sequence[Consumer], log: FieldLogger, *, warn: bool
    ) -> None:
        self._broker = broker
        self._store = store
        self._consumers = consumers
        self._log = log
        self._warn = warn
        self._warn_of_results = warn

    def start(self) -> None:
        """Start both greenlets."""
        gevent.spawn(self._keep_house)
        if self._store is not None:
            gevent.spawn(self._sweep, self._store)

    def _keep_house(self) -> None:
        labels = {
            consumer.subscription.label: (consumer.subscription.stream, consumer.subscription.group)
            for consumer in self._consumers
        }
        while True:
            try:
                self._broker.announce_subscriptions(labels, FORGET_LABEL_S)
                self._look_at_broker()
                self._forget_letters()
                gevent.sleep(ANNOUNCE_S)
            except TaskstreamError as error:
                self._log.debug("Housekeeping in Redis failed, trying on", {"error": error})
                gevent.sleep(1.0)

    def _look_at_broker(self) -> None:
        """Once, as soon as it answers. What may not be asked is no reason not to work."""
        if not self._warn:
            return
        link = Link(self._broker.url, PRODUCER)
        try:
            facts = read_facts(link.replies)
        except (redis.RedisError, OSError):
            return  # next time
        finally:
            link.close()
        self._warn = False
        risk = eviction_risk(facts) if facts is not None else None
        if risk is not None:
            self._log.warning(
                "Broker deletes work when it is full", {"reason": risk, "remedy": "set maxmemory-policy to noeviction"}
            )

    def _forget_letters(self) -> None:
        for consumer in self._consumers:
            membership = consumer.membership
            if membership is None:
                continue
            retention = consumer.subscription.dead_retention
            try:
                while membership.group.forget(self._broker.call, retention, FORGET_COUNT) == FORGET_COUNT:
                    gevent.sleep(0.05)
            except ConfigError as error:  # this group's keys hold something else, which concerns no other
                self._log.debug("Dead letters cannot be forgotten", {**consumer.fields(), "error": error})

    def _look_at_results(self, store: ResultStore, apart: Callable[..., Any]) -> None:
        """Once, before the first result; ``apart(function, arguments)``, because a disk may hang."""
        folder = folder_of(store.url)
        problem = apart(unwritable, (folder,)) if folder is not None else None
        if problem is not None:
            fields = {"results": store.url, "reason": problem.text, "remedy": problem.remedy}
            self._log.warning("Results cannot be written, this pool will pause with the first one", fields)

    def _sweep(self, store: ResultStore) -> None:
        pool = gevent.get_hub().threadpool
        if self._warn_of_results:
            self._look_at_results(store, pool.apply)
        while True:
            try:
                swept = pool.apply(store.sweep, (now_ms(), SWEEP_COUNT))
            except (OSError, TaskstreamError) as error:
                self._log.warning("Old results cannot be deleted", {"error": error})
                swept = 0
            gevent.sleep(CLEAN_S if swept < SWEEP_COUNT else 0.1)
