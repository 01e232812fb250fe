"""Reads one subscription's messages and hands them to the executor, never more than there are free slots.

It owns the consumer name: registers before the first read, goes on under a new one when the lease is lost,
and finds what the server handed out in a reply that never arrived.
"""

from __future__ import annotations

import contextlib
import secrets
import time

import gevent
import redis
from gevent.lock import RLock

from taskstream.broker.group import ConsumerGroup, group_is_gone
from taskstream.connection import BLOCK_MS, error_text
from taskstream.errors import TaskstreamError
from taskstream.handler import Subscription
from taskstream.link import Link

from . import intake, outcomes
from .acker import Acker
from .backoff import RECONNECT_MOST_S, Backoff
from .clock import boottime
from .membership import Job, Membership
from .reading import UNCOMMITTED, Reading
from .revoked import Revoked
from .stats import SubscriptionStats
from .surroundings import Surroundings

STARTED = "started"
STOPPED = "stopped"

RECONCILE_S = 10.0

SILENT_S = BLOCK_MS / 1000 + 1
"""A reader that wants to read and has had no answer for so long consumes nothing, connected or not."""

UNSURE_POLL_S = 0.05
"""How often a reader looks whether a lease that was about to run out has been renewed."""


class Consumer:
    """One subscription in one process."""

    _numbers = 0

    def __init__(
        self, subscription: Subscription, acker: Acker, stats: SubscriptionStats, around: Surroundings
    ) -> None:
        self.subscription = subscription
        self.stats = stats
        self.acker = acker
        self._slots = around.slots
        self.active = 0
        """Jobs of this subscription queued or running here."""
        self.membership: Membership | None = None
        self.takes_over = False
        """What a dead consumer held waits for room here, so nothing new is read until it has some."""
        self.looked = False
        """The recoverer has looked for what dead consumers left, which comes before anything new."""
        self.suspect_at = min((max(1, one.settings.max_deliveries - 1) for one in subscription.all_handlers), default=1)
        """Deaths from which on a message of this subscription may have to run alone."""
        self.state = STARTED if subscription.auto_start else STOPPED
        self.around = around
        self.reading = Reading(self)
        self.revocations = Revoked(self)
        self.revoked = self.revocations.ids
        """Ids that are not to run; True: nor to go on running."""
        self._trying_since: float | None = None
        self._older: list[Membership] = []
        self._unanswered: Membership | None = None
        """Whose name was sent to be registered, without an answer."""
        self._version = 0
        self._choosing = RLock()
        self._link = Link(around.broker.url)
        self._client_id: int | None = None
        self._client_name = f"taskstream-reader-{secrets.token_hex(8)}"
        self._stopping = False
        self._group_gone = False
        self._reconcile_at = 0.0
        self._start_at = boottime() + subscription.delay_auto_start
        self._greenlet: gevent.Greenlet[..., None] | None = None

    # -- control ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start reading."""
        self._greenlet = gevent.spawn(self._run)

    def refresh(self) -> None:
        """Read the operator's choice and obey it; returns once the reader does."""
        with self._choosing:
            version, choice = self.around.broker.choice(self.subscription.stream, self.subscription.group)
            self._version = version
            self._obey(choice)
            self.revocations.load()

    def hear(self, version: int, choice: str | None) -> None:
        """A renewal brought the operator's choice along; one older than what is obeyed already is let be.

        Something may have been revoked, too; where the broker does not say what, the reader asks again.
        """
        with self._choosing:
            if version > self._version:
                self._version = version
                self._obey(choice)
                with contextlib.suppress(TaskstreamError):
                    self.revocations.load()

    def _obey(self, choice: str | None) -> None:
        wanted = choice or (STARTED if self.subscription.auto_start else STOPPED)
        if wanted == self.state or self._stopping:
            return
        self.state = wanted
        self.around.log.info("Consumption started" if wanted == STARTED else "Consumption stopped", self.fields())
        if wanted == STARTED:
            self.notice_room()
        else:
            self._quiet()

    def stop(self) -> None:
        """Read nothing more; give back what has not started."""
        self._stopping = True
        self.state = STOPPED
        self.acker.hurry()
        self._quiet()

    def _quiet(self) -> None:
        self.notice_room()
        # Before slots become free for it while the reader is waited for; what that still reads is not queued any more.
        self.give_back(self.around.queue.withdraw(self))
        self.unblock()

    def give_back(self, jobs: list[Job]) -> None:
        """Jobs that were read and will not be started here."""
        for job in jobs:
            outcomes.give_back(job, started=False)
            self.release_slot()
            self.acker.put(job)

    def put_off(self, job: Job, seconds: float) -> None:
        """A job that was read and is to be read again, here or elsewhere, in ``seconds``."""
        outcomes.postpone(job, seconds)
        self.release_slot()
        self.acker.put(job)

    def unblock(self) -> None:
        """Bring the reader back from the server. It may be about to block, so ask until it is out."""
        backoff = Backoff(0.005, 0.1)
        deadline = boottime() + 2 * BLOCK_MS / 1000
        while self.reading.under_way and boottime() < deadline:
            if self._client_id is not None:
                try:
                    self.around.broker.call("CLIENT", "UNBLOCK", self._client_id)
                except TaskstreamError:
                    self._link.close()
            gevent.sleep(backoff.next())

    def wake(self) -> None:
        """Something waits by its priority: bring the reader back from the server, where it would not see it."""
        self.reading.wake()
        waits, backoff = self.reading.waits, Backoff(0.005, 0.1)
        # It may be about to wait, so ask until it is out of that very read.
        while waits and self.reading.waits == waits and not self._stopping:
            if self._client_id is not None:
                with contextlib.suppress(TaskstreamError):  # such a broker ends the read itself
                    self.around.broker.call("CLIENT", "UNBLOCK", self._client_id)
            gevent.sleep(backoff.next())

    @property
    def stopping(self) -> bool:
        """Whether it was told to end with its process."""
        return self._stopping

    @property
    def held(self) -> int:
        """How many messages it holds, under all the names it has."""
        memberships = (*self._older, *([self.membership] if self.membership else []))
        return sum(len(membership.jobs) for membership in memberships if not membership.lost)

    def leave_at_once(self, membership: Membership) -> None:
        """Its lease is lost: the reader must not wait on under that name, maybe on a connection that is dead."""
        if self.reading.under_way and self.membership is membership:
            self._link.close()

    def release(self) -> None:
        """End every consumer name of this subscription; call when nothing runs any more."""
        names = (*self._older, self._unanswered, self.membership)
        for membership in names:
            if membership is not None:
                self._end(membership)
        self._older.clear()
        self._unanswered = self.membership = None
        self._link.close()

    # -- called from the executor and the acker ----------------------------------------------------------

    def notice_room(self) -> None:
        """Something changed that may let a reader go on."""
        self.around.slots.notice()

    def release_slot(self) -> None:
        """One job of this subscription neither waits nor runs any more."""
        self.active -= 1
        slots = self._slots
        slots.used -= 1
        if not slots.changed.is_set():
            slots.changed.set()

    @property
    def silent(self) -> bool:
        """Whether it wants to read, and no read has been answered for SILENT_S."""
        since = self._trying_since
        return since is not None and boottime() - since > SILENT_S

    def fields(self) -> dict[str, object]:
        """The stream and group, for log lines."""
        return {
            "stream.name": self.subscription.stream,
            "stream.consumer_group": self.subscription.group,
            "stream.event_name": self.subscription.label,
        }

    # -- the reader --------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(0.1, RECONNECT_MOST_S)
        failing = False
        while not self._stopping:
            if self._trying_since is None:
                self._trying_since = boottime()
            try:
                if not self._link.connected:
                    self._reconnect()
                if self.membership is None or self.membership.lost or self._group_gone:
                    self.join()
                assert self.membership is not None
                if boottime() >= self._reconcile_at:
                    self._reconcile(self.membership)
                if self.revocations.stale:
                    self.revocations.load()
                room = self._count(self.membership)
                if not room:
                    self._trying_since = None
                    self.around.slots.changed.wait(UNSURE_POLL_S if boottime() >= self.membership.deadline else 1.0)
                    self.around.slots.changed.clear()
                    continue
                self._read(self.membership, room)
                self._trying_since = None
                if failing:
                    failing = False
                    self.around.log.info("Broker answers again", self.fields())
                backoff.reset()
            except (redis.RedisError, OSError, TaskstreamError) as error:
                self._group_gone |= group_is_gone(error)
                self._link.close()
                if not failing and not (self.membership is not None and self.membership.lost):
                    failing = True
                    self.around.log.warning(
                        "Broker does not answer, trying on", {**self.fields(), "error": error_text(error)}
                    )
                gevent.sleep(backoff.next())
            except Exception as error:
                # A reader that dies would look like an idle worker for ever.
                self.around.log.error("Reader failed, going on", self.fields(), exc=error)
                self._link.close()
                gevent.sleep(backoff.next())

    def join(self) -> None:
        """Register under a name that was never used."""
        self._retire()
        self._end_unanswered()
        name = f"{self.around.worker}.{secrets.token_hex(4)}"
        to = self.subscription
        group = ConsumerGroup(to.stream, to.group, name, self.around.lease_ms, int(to.retention * 1000))
        self.around.clock.learn(group.time_ms(self._link.call))
        Consumer._numbers += 1
        sent = boottime()
        membership = Membership(self, group, Consumer._numbers, sent + self.around.lease_ms / 1000)
        # The supervisor must know of the name before the server does, or a crash in between hides it.
        self.around.report(membership, False)
        self._unanswered = membership
        registered = group.register(self._link.call)
        self._unanswered = None
        if not registered:
            self.around.report(membership, True)
            raise TaskstreamError(f"consumer name {name} was used before")
        self._group_gone = False
        self.around.leases.add(membership)
        self.membership = membership
        self._reconcile_at = boottime() + RECONCILE_S
        self.refresh()

    def _end_unanswered(self) -> None:
        """The server may have registered a name although nobody was told so: it would stay for as long as a lease.

        Raises what keeps the server from answering, so that there is never more than one such name.
        """
        if self._unanswered is not None:
            self._unanswered.group.release(self._link.call)
            self.around.report(self._unanswered, True)
            self._unanswered = None

    def _retire(self) -> None:
        """Stop reading under the present name; what it still holds is finished or lost."""
        membership, self.membership = self.membership, None
        if membership is not None:
            self._older.append(membership)
        self._end_older()

    def _end_older(self) -> None:
        for old in list(self._older):
            if old.lost or not old.jobs:
                self._older.remove(old)
                self._end(old)

    def _end(self, membership: Membership) -> None:
        self.around.leases.remove(membership)
        if membership.lost:
            try:
                membership.absolve(self.around.broker.call)
            except TaskstreamError as error:
                self.around.log.debug("Counted deaths cannot be taken back", {**self.fields(), "error": error})
        else:
            membership.jobs.clear()
            try:
                membership.group.release(self.around.broker.call)
            except TaskstreamError as error:
                # The supervisor still knows of it, and signs off for it when this process has ended.
                self.around.log.warning("Could not sign off", {**self.fields(), "error": error})
                return
        self.around.report(membership, True)

    def _reconnect(self) -> None:
        """Make sure the old connection takes no more entries, then see which it took unnoticed."""
        old, self._client_id = self._client_id, None
        if old is not None:
            # After a restart of the server the number may be somebody else's, the name is not.
            found = self._link.call("CLIENT", "LIST", "ID", old)
            if f" name={self._client_name} ".encode() in found:
                with contextlib.suppress(redis.ResponseError):  # it may end by itself meanwhile
                    self._link.call("CLIENT", "KILL", "ID", old)
        self._link.call("CLIENT", "SETNAME", self._client_name)
        self._client_id = int(self._link.call("CLIENT", "ID"))
        self._reconcile_at = 0.0

    def _reconcile(self, membership: Membership) -> None:
        after_reconnect = self._reconcile_at == 0.0
        limit = UNCOMMITTED + self.around.slots.total
        with membership.receiving:
            missing = membership.group.missing(
                self._link.call, lambda again, entry: (again, entry) in membership.jobs, limit
            )
            if missing:
                self.around.log.warning(
                    "Found messages whose delivery got lost", {**self.fields(), "count": len(missing)}
                )
                intake.accept(self, membership, missing, run=self.state == STARTED)
        # An old half-open connection that is still blocked on the server may swallow one more entry.
        self._reconcile_at = boottime() + (BLOCK_MS / 1000 + 1 if after_reconnect else RECONCILE_S)
        self._end_older()

    def _count(self, membership: Membership) -> int:
        """How many messages may be read now."""
        if self.state != STARTED or self.around.paused is not None or boottime() < self._start_at:
            return 0
        return self.reading.count(membership)

    @property
    def room(self) -> int:
        """How many messages of this subscription could start now."""
        return self.reading.room

    def _read(self, membership: Membership, room: int) -> None:
        started = time.monotonic()
        entries = self.reading.read(self._link.call, membership, room)
        if not entries:
            return
        if self.state != STARTED:
            room = 0  # consumption was stopped while the reply was on its way
        intake.accept(self, membership, entries[:room])
        intake.accept(self, membership, entries[room:], run=False)
        if self.reading.took_all:
            # Who waits for nothing else starts what came before the next read is sent, which takes longer than that.
            gevent.sleep(0)
        if self.subscription.throttle:
            gevent.sleep(max(0.0, self.subscription.throttle - (time.monotonic() - started)))
