"""A worker that is taken step by step by whoever holds it, in that thread: for tests of applications.

It is wired from the roles of a real process (``process.py``), so that a message has the same life here, with its
retries, workflows, hooks and results; what is left out is what runs beside: lease thread, control channel, takeovers,
time limits. It never waits, and patches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskstream import logs
from taskstream.broker import Broker
from taskstream.broker.group import Entry
from taskstream.handler import Subscription
from taskstream.middleware import Middleware, tell
from taskstream.results.base import Outcome, ResultStore
from taskstream.schedule import Schedule

from . import intake
from .acker import Acker
from .consumer import Consumer
from .executor import Executor
from .lease import LeaseKeeper
from .limits import Limits
from .membership import Membership
from .process import all_middleware
from .scheduler import Scheduler
from .server_clock import ServerClock
from .slots import Slots
from .stats import SubscriptionStats
from .surroundings import Surroundings
from .table import Table, create

LEASE_S = 30 * 86_400.0
"""Nobody renews it."""

NESTED = 50
"""How deep handlers may go that run others themselves."""

PIECE = 100


class SteppingWorker:
    """Runs the messages of ``subscriptions``. ``watch`` are hooks of the holder's, called after the handlers' own.

    ``at_once`` is how many of a subscription a step reads. With one, what the first message does is there for the
    second, and order is what it says.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        broker: Broker,
        store: ResultStore | None,
        name: str,
        watch: Sequence[Middleware] = (),
        schedules: Sequence[Schedule] = (),
        at_once: int = 1,
    ) -> None:
        log = logs.engine_logger("worker")
        self._broker = broker
        self._clock = ServerClock()
        self._table_file = create(NESTED)
        table = Table(self._table_file.fileno(), NESTED)
        keep = store is not None
        keeper = _Keeper(store) if store is not None else None
        limits = Limits(broker, log)
        self._executor = Executor(
            NESTED, name, table, keep, None, lambda: None, lambda handler: (*limits.of(handler), *watch)
        )
        around = Surroundings(
            broker=broker,
            slots=Slots(PIECE * NESTED),
            queue=self._executor,
            leases=LeaseKeeper(broker.url, LEASE_S, table.beat, lambda membership, renewal: None, self._clock.learn),
            log=log,
            worker=name,
            lease_ms=int(LEASE_S * 1000),
            keep_results=keep,
            alone=True,
            report=lambda membership, ended: None,
            clock=self._clock,
        )
        self._consumers = [
            Consumer(
                subscription,
                Acker(broker, keeper, log, lambda delay_ms: None),  # type: ignore[arg-type]
                SubscriptionStats(log, {}),
                around,
            )
            for subscription in subscriptions
        ]
        self._schedules = schedules
        self._scheduler = Scheduler(schedules, broker.call, self._clock, log)
        self._middleware = all_middleware(subscriptions)
        tell(self._middleware, "worker_start", name)
        self._name = name
        self._at_once = at_once

    def step(self) -> int:
        """Run what is readable now, ``at_once`` of each subscription; return how many ran or were ended."""
        if self._schedules:
            self._now_ms()
            self._scheduler.turn()
        return sum(self._step(consumer) for consumer in self._consumers)

    def next_due_ms(self) -> int | None:
        """In how many ms (Redis' clock) the next delayed message is due; None without one."""
        waits = [self._joined(one).group.promote(self._broker.call, 0)[1] for one in self._consumers]
        return min((wait for wait in waits if wait is not None), default=None)

    def next_tick_ms(self) -> int | None:
        """In how many ms a periodic task is due; None where there is none."""
        now_ms = self._now_ms()
        return min((max(0, one.times.next(now_ms) - now_ms) for one in self._schedules), default=None)

    def close(self) -> None:
        """Sign off; what was read has been ended."""
        tell(self._middleware, "worker_stop", self._name)
        for consumer in self._consumers:
            consumer.release()
        self._table_file.close()

    def _now_ms(self) -> int:
        now_ms = self._broker.now_ms()
        self._clock.learn(now_ms)
        return now_ms

    def _joined(self, consumer: Consumer) -> Membership:
        if consumer.membership is None:
            consumer.join()
        assert consumer.membership is not None
        return consumer.membership

    def _step(self, consumer: Consumer) -> int:
        membership = self._joined(consumer)
        call = self._broker.call
        self._now_ms()
        consumer.revocations.load()
        membership.group.promote(call, PIECE)
        entries: list[Entry] = membership.group.feed(call, self._at_once, 0)[0]
        if not entries:
            return 0
        intake.accept(consumer, membership, entries)
        self._executor.run_waiting()
        consumer.acker.finish_waiting()
        return len(entries)


class _Keeper:
    """Keeps outcomes at once."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store

    def keep(self, membership: Membership, outcomes: Sequence[Outcome]) -> bool:
        """Raises what the store raises."""
        self._store.write(outcomes)
        return True
