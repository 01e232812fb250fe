"""One worker process: wires the roles together, obeys its supervisor, stops cleanly."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import gevent
import gevent.hub
from gevent.event import Event
from gevent.lock import RLock

from taskstream import logs, root_log
from taskstream.app.location import describe
from taskstream.broker import Broker
from taskstream.broker.group import Renewal
from taskstream.errors import ConfigError, TaskstreamError
from taskstream.handler import Subscription
from taskstream.middleware import Middleware, tell

from . import forks, orders, pipes
from .acker import Acker
from .clock import boottime
from .consumer import SILENT_S, Consumer
from .control import ControlListener
from .executor import Executor
from .forwarder import Forwarder
from .janitor import Janitor
from .keeper import Keeper
from .lease import LeaseKeeper
from .limits import Limits
from .loading import Loaded, load
from .membership import Membership
from .options import ProcessOptions
from .recoverer import Recoverer
from .run_lines import RunLines
from .scheduler import Scheduler
from .server_clock import ServerClock
from .slots import Slots
from .stats import Reporter, SubscriptionStats
from .surroundings import Surroundings
from .table import Table

if TYPE_CHECKING:
    from taskstream.aio import Bridge

INTERRUPT_S = 1.0
"""How long an interrupted handler gets to end before its message is given back all the same."""

FINISH_S = 5.0
"""How long signing off may take, and the last commits of one that is to end at once."""

COMMITS_S = 11.0
"""How long the last commits may take: a second try is in it where the connection of the first is dead without saying so
(READ_TIMEOUT_S), for what is not committed runs again."""

PLACE_S = 2.0
"""How soon others are told that the folder of results was replaced."""

CLOSE_S = 2.0
"""How long closing the result store may take."""

EXIT_OK = 0
EXIT_FORCED = 1
"""Something that ran was interrupted and given back."""
EXIT_CONFIG = 2


class WorkerProcess:
    """Everything that lives in one worker process."""

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._pool = options.pool
        self._bridge: Bridge | None = None
        self._bridging = RLock()
        self._stop = Event()
        self._now = Event()
        self._grace_ends: float | None = None
        """Boottime (s), None until told to stop; one that is only to drain may take as long as it needs."""
        self._state = "running"
        self._made_at = boottime()

    def run(self) -> int:
        """Load the code, work until told to stop; return the exit status."""
        forks.guard((self._options.orders_fd, self._options.reports_fd, self._options.table_fd))
        pipes.listen(self._options.orders_fd, self._on_order)
        try:
            loaded = load(self._pool, self.run_async, self._options.name)
            forks.leave_if_copied()
            root_log.take_over(logs.configure(loaded.log_level, loaded.log_format))
            logs.tell_of_runs(RunLines(loaded.subscriptions))
            self._build(loaded)
        except ConfigError as error:
            pipes.send(self._options.reports_fd, orders.Report("config_error", str(error)))
            return EXIT_CONFIG
        self._start()
        pipes.send(self._options.reports_fd, orders.Report("ready", url=self._broker.url))
        self._stop.wait()
        return self._finish()

    def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the event loop beside the hub; the loop starts with the first one."""
        return (self._bridge or self._make_bridge()).run(coroutine)

    def _make_bridge(self) -> Bridge:
        # Loaded here: a pool without `async def` needs no event loop.
        from taskstream.aio import Bridge

        from .aio_backend import gevent_backend

        with self._bridging:
            if self._bridge is None:
                self._bridge = Bridge(gevent_backend())
            return self._bridge

    # -- wiring ------------------------------------------------------------------------------------------

    def _build(self, loaded: Loaded) -> None:
        pool = self._pool
        self._log = logs.engine_logger("worker")
        self._subscriptions = loaded.subscriptions
        self._broker = Broker(loaded.broker_url)
        self._store = loaded.store
        self._place = describe(self._store, make_mark=True)
        self._slots = Slots(pool.concurrency)
        keep = self._store is not None
        self._keeper = Keeper(self._store, self._on_paused) if self._store is not None else None
        table = Table(self._options.table_fd, pool.concurrency)
        clock = ServerClock()
        self._leases = LeaseKeeper(loaded.broker_url, pool.lease, table.beat, self._on_renewal, clock.learn)
        table.limit(shortest_limit(loaded.subscriptions))
        self._executor = Executor(
            *(pool.concurrency, self._options.name, table, keep, pool.max_tasks_per_process, self._on_most),
            Limits(self._broker, self._log).of,
        )
        self._around = Surroundings(
            broker=self._broker,
            slots=self._slots,
            queue=self._executor,
            leases=self._leases,
            log=self._log,
            worker=self._options.name,
            lease_ms=int(pool.lease * 1000),
            keep_results=keep,
            alone=len(loaded.subscriptions) == 1,
            report=self._report,
            clock=clock,
        )
        self._consumers: list[Consumer] = []
        self._forwarder = Forwarder(self._broker, self._consumers, self._log)
        for subscription in loaded.subscriptions:
            handlers = [subscription.default] if subscription.default else list(subscription.handlers.values())
            app, version = (handlers[0].app, handlers[0].version) if handlers else ("taskstream", "")
            stats = SubscriptionStats(
                logs.FieldLogger(app, version, subscription.label.rpartition(".")[2]),
                {"stream.name": subscription.stream, "stream.consumer_group": subscription.group},
            )
            acker = Acker(self._broker, self._keeper, self._log, self._forwarder.expect)
            self._consumers.append(Consumer(subscription, acker, stats, self._around))
        self._reporter = Reporter(self._broker, self._options.name, self._consumers, self._describe, self._log)
        self._recoverer = Recoverer(self._broker, self._consumers, self._slots, pool.lease, self._log)
        self._control = ControlListener(
            self._broker, self._options.name, self._consumers, self._reporter, self._forwarder, self._log
        )
        warn = self._options.index == 1
        self._scheduler = Scheduler(loaded.schedules, self._broker.call, clock, self._log)
        self._janitor = Janitor(self._broker, self._store, self._consumers, self._log, warn=warn)

    def _start(self) -> None:
        self._log.info(
            "Worker starts",
            {
                "worker": self._options.name,
                "broker": self._broker.display_url,
                "results": self._store.url if self._store is not None else "none",
                "concurrency": self._pool.concurrency,
                "consumes": ", ".join(one.label for one in self._subscriptions),
            },
        )
        self._middleware = all_middleware(self._subscriptions)
        tell(self._middleware, "worker_start", self._options.name)
        self._leases.start()
        self._executor.start()
        if self._keeper is not None:
            self._keeper.start()
        for consumer in self._consumers:
            consumer.acker.start()
            consumer.start()
        if self._store is not None:
            gevent.spawn(self._watch_place)
        self._recoverer.start()
        self._forwarder.start()
        self._control.start()
        self._reporter.start()
        self._janitor.start()
        self._scheduler.start()

    def _describe(self) -> dict[str, Any]:
        reads = [consumer.reading.last_at for consumer in self._consumers]
        state = self._state
        if state == "running" and self._around.paused is not None:
            state = "paused"
        elif state == "running" and all(
            consumer.silent or consumer.membership is None or boottime() >= consumer.membership.deadline
            for consumer in self._consumers
        ):
            young = not any(reads) and boottime() - self._made_at < SILENT_S
            state = "starting" if young else "disconnected"
        return {
            "state": state,
            "reason": self._around.paused,
            "concurrency": self._pool.concurrency,
            "running": self._executor.running,
            "last_read_s": round(boottime() - max(reads), 1) if any(reads) else None,
            "results": self._place,
        }

    def _watch_place(self) -> None:
        """Look where results are kept in a thread: a disk that hangs must not hang the hub with it."""
        while True:
            gevent.sleep(PLACE_S)
            self._place = gevent.get_hub().threadpool.apply(describe, (self._store,), {"make_mark": True})

    # -- what the roles tell -----------------------------------------------------------------------------

    def _report(self, membership: Membership, ended: bool) -> None:
        group = membership.group
        pipes.send(
            self._options.reports_fd,
            orders.Report(
                "end" if ended else "begin",
                number=membership.number,
                stream=group.stream,
                group=group.group,
                consumer=group.consumer,
                url=self._broker.url,
            ),
        )

    def _on_most(self) -> None:
        report = orders.Report("worn", f"has run {self._executor.ran} messages")
        gevent.spawn(pipes.send, self._options.reports_fd, report)

    def _on_renewal(self, membership: Membership, renewal: Renewal | Exception) -> None:
        if isinstance(renewal, Exception):
            self._log.error("Lease cannot be renewed, trying on", membership.consumer.fields(), exc=renewal)
        elif renewal.held:
            membership.consumer.hear(renewal.version, renewal.choice)
            if renewal.ranked:
                membership.consumer.wake()
        else:
            self._log.warning("Lease lost, going on under a new name", membership.consumer.fields())
            membership.lose()
            self._slots.notice()

    def _on_paused(self, reason: str | None) -> None:
        if reason is not None:
            self._log.error("Consumption pauses", {"reason": reason})
        else:
            self._log.info("Consumption goes on")
        self._around.paused = reason
        self._slots.notice()
        gevent.spawn(self._obey_pause)

    def _obey_pause(self) -> None:
        if self._around.paused is not None:
            # A reader that waits on the server would take one more batch.
            gevent.joinall([gevent.spawn(consumer.unblock) for consumer in self._consumers])
        self._reporter.announce()

    # -- the end -----------------------------------------------------------------------------------------

    def _on_order(self, order: bytes) -> None:
        if order != orders.DRAIN and self._grace_ends is None:
            self._grace_ends = boottime() + self._pool.grace
        self._stop.set()
        if order == orders.NOW:
            self._now.set()

    @property
    def _out_of_time(self) -> bool:
        return self._now.is_set() or (self._grace_ends is not None and boottime() >= self._grace_ends)

    def _finish(self) -> int:
        """Read nothing more, finish what runs, give back the rest, leave no trace; within the grace time, if any."""
        self._state = "stopping"
        self._log.info("Worker stops", {"worker": self._options.name, "running": self._executor.running})
        gevent.joinall([gevent.spawn(consumer.stop) for consumer in self._consumers], timeout=FINISH_S)
        while self._executor.running and not self._out_of_time:
            self._now.wait(0.02)
        forced = self._executor.running_jobs()
        if forced:
            self._log.warning("Interrupting what still runs", {"count": len(forced)})
            self._executor.interrupt()
            deadline = boottime() + INTERRUPT_S
            while self._executor.running and boottime() < deadline:
                gevent.sleep(0.02)
            self._executor.abandon()
        left = self._last_commits()
        self._tell_stop()
        self._leases.stop()
        self._leave()
        self._log.info("Worker stopped", {"worker": self._options.name})
        return EXIT_FORCED if forced or left else EXIT_OK

    def _last_commits(self) -> int:
        """Wait until what has ended is committed; for a disk that takes no results, until the grace time ends.

        Returns how many messages are left behind.
        """
        since = None
        while not all(consumer.acker.idle for consumer in self._consumers):
            if self._grace_ends is not None:
                since = since or boottime()
                # A second signal may come meanwhile, and the supervisor waits no longer than NOW_S after it.
                most_s = FINISH_S if self._now.is_set() else COMMITS_S
                if self._out_of_time if self._around.paused is not None else boottime() >= since + most_s:
                    break
            gevent.sleep(0.005)
        left = sum(consumer.held for consumer in self._consumers)
        if left:
            # They are given up with the lease, and count as not started, because none of them killed anybody.
            self._log.warning("Leaving messages whose end could not be committed: they will run again", {"count": left})
        return left

    def _tell_stop(self) -> None:
        """A hook that hangs must not keep the process."""
        try:
            with gevent.Timeout(FINISH_S):
                tell(self._middleware, "worker_stop", self._options.name)
        except gevent.Timeout:
            self._log.warning("Hooks did not end in time", {"timeout": FINISH_S})

    def _leave(self) -> None:
        try:
            with gevent.Timeout(FINISH_S, TaskstreamError("no answer in time")):
                for consumer in self._consumers:
                    consumer.release()
                self._broker.forget_worker(self._options.name)
        except (TaskstreamError, OSError) as error:
            self._log.warning("Could not sign off, the lease will run out", {"error": error})
        if self._bridge is not None:
            self._bridge.close(1.0)
        if self._keeper is not None:
            self._keeper.close(CLOSE_S)


def shortest_limit(subscriptions: Sequence[Subscription]) -> float:
    """The shortest ``hard_timeout`` (s) of all handlers, 0.0 if none has one."""
    limits = [handler.settings.hard_timeout for one in subscriptions for handler in one.all_handlers]
    return min((limit for limit in limits if limit is not None), default=0.0)


def all_middleware(subscriptions: Sequence[Subscription]) -> tuple[Middleware, ...]:
    """The hooks of all handlers, each instance once, in order."""
    found = {id(one): one for sub in subscriptions for handler in sub.all_handlers for one in handler.middleware}
    return tuple(found.values())


def main(options: ProcessOptions) -> None:
    """Run one worker process and end it, whatever threads or greenlets are left."""
    # An error in a greenlet must reach the log, not gevent's own printing.
    gevent.hub.Hub.print_exception = _log_exception  # type: ignore[method-assign]
    status = WorkerProcess(options).run()
    os._exit(status)


def _log_exception(self: Any, context: Any, t: Any, v: Any, tb: Any) -> None:
    error = v if isinstance(v, BaseException) else None
    logs.engine_logger("worker").error("A greenlet failed", {"context": repr(context)}, exc=error)
