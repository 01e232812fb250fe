"""Runs handlers on standing greenlets, one message each at a time, to an outcome.

Greenlets stand because spawning one per message costs several times what running a small one does. A
watchdog throws time limits into them; nothing here talks to Redis.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from contextvars import Context

import gevent
from gevent.event import Event
from gevent.lock import RLock
from gevent.queue import SimpleQueue

from taskstream.errors import Interrupt, Revoked, Shutdown, TimeLimitExceeded
from taskstream.handler import Handler
from taskstream.middleware import Middleware
from taskstream.running import RUNNING

from . import forks, intake, outcomes
from .clock import boottime
from .consumer import Consumer
from .known import Known, PutOff, about
from .lane import Lane
from .membership import Job
from .table import Table

_set_running = RUNNING.set

WATCH_S = 0.05

COMMIT_S = 5.0
"""How long a suspect that runs alone waits for the commits of others, and others for its own. The next stage may be
full, and what makes room in it waits here, too."""

OTHERS_MOST_S = 10.0
"""After a suspect everything else has a process for as long as that one took, at most this long."""

SPREAD_S = 0.2
"""Suspects that are put off together come back within so long."""


class Executor:
    """``concurrency`` lanes fed from one queue.

    ``table`` is where started messages are marked for the supervisor; ``keep`` says whether outcomes are kept.
    ``on_most()`` is called once, when ``most`` messages have run; None calls it never. ``builtins(handler)`` are the
    hooks that the worker itself has for a handler, after the handler's own.
    """

    def __init__(
        self,
        concurrency: int,
        worker: str,
        table: Table,
        keep: bool,
        most: int | None,
        on_most: Callable[[], None],
        builtins: Callable[[Handler], Sequence[Middleware]] = lambda handler: (),
    ) -> None:
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self.put: Callable[[Job], None] = self._queue.put
        """Queue a job."""
        self._lanes = [Lane(index, table) for index in range(concurrency)]
        self._worker = worker
        self._table = table
        self._keep = keep
        self._most = most
        self._on_most = on_most
        self._builtins = builtins
        self._known: dict[int, Known] = {}  # by identity: hashing a handler costs more than running a small one
        self._starting = RLock()
        self._timed = 0
        self._watched = Event()
        """Set while something with a time limit runs, and until the watchdog has seen that nothing does."""
        self._others_until = 0.0
        """Boottime (s) before which no suspect runs alone here."""
        self._suspect: Job | None = None
        """Waits for nothing else to run."""
        self.closed = False
        """A suspect runs alone, or waits for it: nothing else is started."""
        self.ran = 0
        """Messages that ran since the process started."""

    def start(self) -> None:
        """Start the lanes and the watchdog."""
        for lane in self._lanes:
            self._stand(lane)
        gevent.spawn(self._watch)

    def run_waiting(self) -> int:
        """Run what waits here in the caller's own thread, for a worker that is taken step by step; return how many.

        A handler may come here again. No time limit is watched over.
        """
        ran = 0
        lane = next(lane for lane in self._lanes if lane.job is None)
        while not self._queue.empty():
            self._run_job(lane, self._queue.get_nowait())
            ran += 1
        return ran

    def withdraw(self, consumer: Consumer) -> list[Job]:
        """Take back what waits here for ``consumer``; what runs goes on."""
        mine: list[Job] = []
        others: list[Job] = []
        if self._suspect is not None and self._suspect.membership.consumer is consumer:
            mine.append(self._suspect)
            self._suspect = None
        while not self._queue.empty():
            job = self._queue.get_nowait()
            (mine if job.membership.consumer is consumer else others).append(job)
        for job in others:
            self._queue.put(job)
        return mine

    @property
    def running(self) -> int:
        """How many messages run now."""
        return len(self.running_jobs())

    def running_jobs(self) -> list[Job]:
        """What runs now."""
        return [lane.job for lane in self._lanes if lane.job is not None]

    def interrupt(self) -> None:
        """Throw Shutdown into whatever runs."""
        for lane in self._lanes:
            if lane.job is not None:
                self._throw(lane, lane.job, Shutdown("the worker stops"))

    def terminate(self, consumer: Consumer) -> None:
        """Throw Revoked, once, into whatever runs of ``consumer`` and is not to go on."""
        for lane in self._lanes:
            job = lane.job
            if job is None or job.ended or job.membership.consumer is not consumer:
                continue
            if consumer.revoked.get(job.delivery.message.id):
                job.ended = True
                self._throw(lane, job, Revoked("was revoked while it ran"))

    def abandon(self) -> None:
        """Give back whatever runs all the same; how it ends is of no importance any more."""
        for lane in self._lanes:
            job = lane.job
            if job is not None and not job.handed:
                lane.deadline = None
                lane.forget(job)
                outcomes.give_back(job, started=True)
                job.membership.consumer.acker.put(job)

    # -- a lane ------------------------------------------------------------------------------------------

    def _stand(self, lane: Lane) -> None:
        lane.greenlet = gevent.spawn(self._run, lane)
        lane.greenlet.link(lambda _: self._stand(lane))

    def _run(self, lane: Lane) -> None:
        get = self._queue.get
        while True:
            job = None
            try:
                job = get()
                if self.closed:
                    # Another process may have time for it; here it could wait as long as the longest message takes.
                    job.membership.consumer.give_back([job])
                elif job.delivery.deaths and on_last_chance(job):
                    self._try_alone(lane, job)
                else:
                    self._run_job(lane, job)
            except BaseException as error:
                # Thrown in while nothing of a handler ran: by a gevent.Timeout that one left behind, mostly.
                if job is not None:
                    self._rescue(lane, job, error)

    def _rescue(self, lane: Lane, job: Job, error: BaseException) -> None:
        """No job may stay without an end, and no slot taken, because of what was thrown into its lane."""
        if lane.job is job:
            self._decide(job, error)
            self._end(lane, job)
        elif job.lane is None and not job.handed:
            job.membership.consumer.give_back([job])

    def _try_alone(self, lane: Lane, job: Job) -> None:
        """Run a suspect alone, unless the last one has cost the others more time than they had since."""
        closed_s = self._others_until - boottime()
        if closed_s > 0:
            # Where machines die often most messages in work are suspects, and one by one they would stop all the rest.
            job.membership.consumer.put_off(job, closed_s + random.uniform(0.0, SPREAD_S))
            return
        began = boottime()
        self._run_alone(lane, job)
        self._others_until = boottime() + min(boottime() - began, OTHERS_MOST_S)

    def _run_alone(self, lane: Lane, job: Job) -> None:
        """One more death would make it poison: with nothing beside it, so that only the guilty is found so."""
        membership = job.membership
        self.closed, self._suspect = True, job
        try:
            # What has run and is not committed would run again, too.
            acker = membership.consumer.acker
            until = boottime() + COMMIT_S
            while self._suspect is job and not membership.lost:
                if not self.running and (acker.idle or boottime() >= until):
                    break
                pause()
            if self._suspect is job:
                self._suspect = None
                self._run_job(lane, job)
                # Its end may be what kills the process.
                until = boottime() + COMMIT_S
                while not (acker.idle or membership.lost or boottime() >= until):
                    pause()
        finally:
            self.closed = False
            membership.consumer.notice_room()

    def _run_job(self, lane: Lane, job: Job) -> None:
        """Run one message. What only some messages need is in functions of its own, so that all others do not pay."""
        membership, delivery, handler = job.membership, job.delivery, job.handler
        consumer = membership.consumer
        assert handler is not None
        known = self._known.get(id(handler)) or self._know(handler)
        began = boottime()
        if began >= membership.deadline or membership.lost or job.expires_ms is not None or consumer.revoked:
            if not intake.may_run(job, known.log, self._worker, self._keep):
                return
            began = boottime()
        lane.job = lane.marked = job
        job.lane = lane
        talks = known.log.enabled(handler.log_done_at)
        keep = self._keep
        value: object = None
        failure: BaseException | None = None
        put_off = False
        copy = forks.state
        context = Context()
        context.run(_set_running, delivery)
        try:
            if known.watched:
                began = self._prepare(lane, job, known, context)
            else:
                self._table.start(lane.index, membership.number, delivery.message.id)
            if keep:
                job.started_ms = outcomes.now_ms()
            if not known.ready:
                self._make_ready(known)
            if talks:
                known.log.log(handler.log_done_at, "START", about(job))
            value = context.run(handler.run, delivery)
            if copy.copied:
                forks.leave()
            dumped = handler.dump(value) if keep and not handler.settings.ignore_result else None
            successors = handler.successors(delivery, value)
            lane.deadline = None
            if not job.handed:
                job.successors = successors
                if keep:
                    outcomes.succeed(job, dumped, self._worker, keep)
                else:
                    job.move = "a"
        except PutOff as reason:
            put_off = True
            known.put_off(job, reason, self._worker, self._keep)
        except BaseException as error:
            if copy.copied:
                forks.leave(error)
            lane.deadline = None
            failure = error
            self._decide(job, error)
        if known.hooks is not None and not put_off:
            context.run(known.hooks.after, job, value, failure)
        self._end(lane, job, put_off)
        if put_off:
            return
        elapsed_ms = (boottime() - began) * 1000
        consumer.stats.count(job.move, elapsed_ms)
        if failure is not None or talks:
            known.log_end(job, elapsed_ms, failure)

    def _prepare(self, lane: Lane, job: Job, known: Known, context: Context) -> float:
        """Call the hooks that come before a run, and set its time limits. Returns when (boottime, s) it begins.

        Raises PutOff, and what a loud hook raises.
        """
        number, message_id = job.membership.number, job.delivery.message.id
        settings = lane.limits = known.handler.settings
        if settings.timeout is not None:
            self._timed += 1
            if self._timed == 1:
                self._watched.set()
        if known.hooks is not None:
            # What is waited for in there is nothing that the time limits of a run are about.
            self._table.start(lane.index, number, message_id)
            context.run(known.hooks.before, job)
            intake.look_again(job)
        if settings.timeout is not None:
            lane.deadline = time.monotonic() + settings.timeout
        limit = settings.hard_timeout
        if limit is None:
            self._table.start(lane.index, number, message_id)
        else:
            self._table.start(lane.index, number, message_id, time.monotonic() + limit, limit)
        return boottime()

    def _decide(self, job: Job, error: BaseException) -> None:
        if job.handed:
            return
        try:
            job.successors = ()
            if isinstance(error, Shutdown):
                outcomes.give_back(job, started=True)
            elif isinstance(error, Revoked):
                outcomes.revoke(job, outcomes.describe(error), self._worker, self._keep)
            else:
                outcomes.fail(job, error, self._worker, self._keep)
        except BaseException as broken:
            job.outcome = None
            outcomes.bury(job, outcomes.describe(broken), self._worker, self._keep)

    def _end(self, lane: Lane, job: Job, put_off: bool = False) -> None:
        """What was started has ended, however; nothing in here can fail or switch."""
        lane.job = lane.deadline = None
        if not put_off:
            self.ran += 1
        limits = lane.limits
        if limits is not None:
            lane.limits = None
            if limits.timeout is not None:
                self._timed -= 1
            if limits.hard_timeout is not None and lane.marked is job:
                self._table.end(lane.index)
        membership = job.membership
        consumer = membership.consumer
        consumer.release_slot()
        if not membership.lost:
            consumer.acker.put(job)
        if self.ran == self._most and not put_off:
            self._on_most()

    def _know(self, handler: Handler) -> Known:
        known = self._known[id(handler)] = Known(handler, (*handler.middleware, *self._builtins(handler)))
        return known

    def _make_ready(self, known: Known) -> None:
        """Run the handler's own start, once per process; what fails is tried again by the next message."""
        with self._starting:
            if not known.ready:
                if known.handler.start is not None:
                    known.handler.start()
                known.ready = True

    # -- the watchdog ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            if not self._timed:
                self._watched.clear()
                self._watched.wait()
            gevent.sleep(WATCH_S)
            now = time.monotonic()
            for lane in self._lanes:
                job, deadline = lane.job, lane.deadline
                if job is not None and deadline is not None and now >= deadline:
                    assert job.handler is not None
                    lane.deadline = None
                    limit = job.handler.settings.timeout
                    self._throw(lane, job, TimeLimitExceeded(f"ran longer than its timeout of {limit:g} s"))

    @staticmethod
    def _throw(lane: Lane, job: Job, error: Interrupt) -> None:
        """Throw from the hub, in one step with the check that the lane still runs that very job.

        ``Greenlet.kill(block=False)`` and ``gevent.Timeout`` may hit the message after it.
        """

        def throw() -> None:
            if lane.job is job and lane.greenlet is not None:
                lane.greenlet.throw(error)

        gevent.get_hub().loop.run_callback(throw)


def pause() -> None:
    """Let others run for a moment, whatever is thrown in meanwhile."""
    with contextlib.suppress(BaseException):
        gevent.sleep(0.01)


def on_last_chance(job: Job) -> bool:
    """Whether one more death under this message makes it a dead letter."""
    assert job.handler is not None
    return job.delivery.deaths >= max(1, job.handler.settings.max_deliveries - 1)
