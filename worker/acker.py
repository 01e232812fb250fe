"""Ends messages in groups: outcomes to disk, successors published, then one fenced commit for all of them.

While one group is on its way the next one forms, so that batches grow with the load and a lone message
leaves at once. Nothing is acknowledged before its outcome is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain
from operator import attrgetter

import gevent
import redis
from gevent.event import Event

from taskstream.broker import Broker
from taskstream.broker.group import Batch
from taskstream.connection import READ_TIMEOUT_S, Profile, error_text
from taskstream.link import Link
from taskstream.logs import FieldLogger

from .backoff import RECONNECT_MOST_S, Backoff
from .keeper import Keeper
from .membership import Job, Membership
from .successors import Successors

BATCH = 1_000

# Told of a thousand jobs in one step of C.
_membership_of = attrgetter("membership")
_successors_of = attrgetter("successors")
_lane_of = attrgetter("lane")
_entry_of = attrgetter("delivery.entry_id")
_end_of = attrgetter("move", "ties", "delivery.deaths", "delivery.from_again")
_PLAIN_END = ("a", (), 0, False)
"""Of a job whose end is an entry of the stream acknowledged, and nothing else."""


class Acker:
    """Group-commits the finished jobs of one subscription.

    ``keeper`` puts their outcomes on the disk (None: none are kept); ``on_retry(delay_ms)`` tells that something was
    put into the delayed set.
    """

    def __init__(
        self,
        broker: Broker,
        keeper: Keeper | None,
        log: FieldLogger,
        on_retry: Callable[[int], None],
    ) -> None:
        # A connection of its own: taking one from a pool costs more than a small commit.
        self._link = Link(broker.url, Profile(socket_timeout=READ_TIMEOUT_S))
        self._keeper = keeper
        self._log = log
        self._on_retry = on_retry
        self._done: deque[Job] = deque()
        self._wake = Event()
        self._successors = Successors(broker, log)
        self._busy = False
        self._watched = False

    def start(self) -> None:
        """Start the greenlet; it ends with the process."""
        gevent.spawn(self._run)

    def put(self, job: Job) -> None:
        """Hand over a job whose ``move`` is decided; again is of no effect."""
        if job.handed:
            return
        job.handed = True
        self._done.append(job)
        if not self._busy:
            self._busy = True
            self._wake.set()

    def hurry(self) -> None:
        """The process stops: what waits for room in a full stream goes over its limit rather than be run again."""
        self._successors.hurry()

    @property
    def idle(self) -> bool:
        """Whether everything handed over has been committed or dropped."""
        return not self._busy and not self._done

    def _run(self) -> None:
        done = self._done
        while True:
            if not done:
                self._busy = False
                self._wake.wait()
                self._wake.clear()
                continue
            membership, batch = self._next_batch()
            try:
                self._finish(membership, batch)
            except Exception as error:
                # Nothing was acknowledged: the lease keeps the messages held, and a takeover gets them in the end.
                self._log.error("Commit failed unexpectedly", {"batch": len(batch)}, exc=error)
                membership.lose()

    def finish_waiting(self) -> None:
        """End what was handed over in the caller's own thread, for a worker that is taken step by step.

        Raises what makes that impossible.
        """
        while self._done:
            self._finish(*self._next_batch())
        self._busy = False

    def _next_batch(self) -> tuple[Membership, list[Job]]:
        """The first of what is done, all of one membership."""
        done = self._done
        membership = done[0].membership
        if len(done) <= BATCH and set(map(_membership_of, done)) == {membership}:
            batch = list(done)
            done.clear()
            return membership, batch
        batch = []
        while done and len(batch) < BATCH and done[0].membership is membership:
            batch.append(done.popleft())
        return membership, batch

    def _finish(self, membership: Membership, jobs: list[Job]) -> None:
        if self._keeper is not None:
            outcomes = [job.outcome for job in jobs if job.outcome is not None]
            if outcomes and not self._keeper.keep(membership, outcomes):
                return
        followers = list(chain.from_iterable(map(_successors_of, jobs)))
        if followers and not self._successors.publish(membership, followers):
            return
        delays: list[int] = []
        if not self._commit(membership, jobs, delays):
            return
        held = membership.jobs
        for job in jobs:
            held.pop(job.at, None)
        for lane in set(map(_lane_of, jobs)):
            if lane is not None:
                lane.forget_committed(membership)
        if delays:
            self._on_retry(min(delays))
        membership.consumer.notice_room()

    def _commit(self, membership: Membership, jobs: list[Job], delays: list[int]) -> bool:
        """``delays`` gets those (ms) of what will be tried again."""
        batch = Batch()
        if list(map(_end_of, jobs)).count(_PLAIN_END) == len(jobs):
            batch.main_acks += map(_entry_of, jobs)
            return self._send(membership, batch, jobs)
        for job in jobs:
            delivery, ties = job.delivery, job.ties
            if job.move == "a":
                if delivery.deaths or ties:
                    batch.ack_suspect(delivery.from_again, delivery.entry_id, delivery.message.id, ties)
                else:
                    batch.ack(delivery.from_again, delivery.entry_id)
            elif job.move == "r":
                delays.append(job.delay_ms)
                when = f"@{job.due_ms}" if job.due_ms else job.delay_ms
                batch.retry(delivery.from_again, delivery.entry_id, delivery.message.id, when, job.payload, ties)
            elif job.move == "g":
                batch.give_back(delivery.from_again, delivery.entry_id, delivery.message.id, job.payload, ties)
            elif job.move == "w":
                batch.park(delivery.from_again, delivery.entry_id, delivery.message.id, job.payload, ties)
            else:
                batch.bury(delivery.from_again, delivery.entry_id, delivery.message.id, job.payload, ties)
        return self._send(membership, batch, jobs)

    def _send(self, membership: Membership, batch: Batch, jobs: list[Job]) -> bool:
        """Commit until an answer says that it landed (True) or that the lease is lost (False)."""
        backoff = Backoff(0.05, RECONNECT_MOST_S)
        failing = False
        said = finished_ids(jobs) if self._watched else ""
        while membership.wait_until_sure():
            try:
                won, self._watched = membership.group.commit(self._link.call, batch, said)
                if not won:
                    membership.lose()
                    break
                if self._watched and not said:
                    said = finished_ids(jobs)
                    if said:
                        membership.group.announce(self._link.call, said)
                return True
            except (redis.RedisError, OSError) as error:
                if not failing:
                    failing = True
                    self._log.warning("Commit has no answer, trying on", {"error": error_text(error)})
                gevent.sleep(backoff.next())
        self._log.warning(
            "Lease lost, dropping what was held",
            {"stream.name": membership.group.stream, "group": membership.group.group},
        )
        return False


def finished_ids(jobs: list[Job]) -> str:
    """Ids of the jobs that have a final outcome, as announced to waiters."""
    return " ".join([job.delivery.message.id for job in jobs if job.move in "ad"])
