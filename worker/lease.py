"""Keeps the leases of this process alive, from a native thread that a busy hub cannot hold up.

It never decides what a lost lease means: it marks the membership and tells the hub.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import gevent
import gevent.monkey

from taskstream.broker.group import Renewal, renew_all
from taskstream.connection import Profile, passing
from taskstream.link import Link

from .clock import boottime
from .membership import Membership

_start_native_thread = gevent.monkey.get_original("_thread", "start_new_thread")
_native_sleep = gevent.monkey.get_original("time", "sleep")

RETRY_S = 0.25
"""Longest pause after a renewal without an answer: until one comes, nothing starts and nothing is committed."""


class LeaseKeeper:
    """Renews every membership it was given at a quarter of the lease.

    ``beat(now)`` is called at each round, whether Redis answers or not: it says that this thread gets the
    interpreter. ``on_renewal(membership, renewal)`` runs in a greenlet of the hub when the lease is lost, when the
    operator's choice has another version than before, as long as messages wait by their priority, or, once, with what
    makes renewing impossible.
    ``on_time(server_ms, received)`` is told in the thread what time it is there, and when (boottime, s) that was heard.
    """

    def __init__(
        self,
        url: str,
        lease_s: float,
        beat: Callable[[float], None],
        on_renewal: Callable[[Membership, Renewal | Exception], None],
        on_time: Callable[[int, float], None],
    ) -> None:
        self._interval = lease_s / 4
        self._lease_s = lease_s
        # A connection that hangs must not use up the lease.
        self._profile = Profile(socket_timeout=max(0.5, lease_s / 4), connect_timeout=max(0.5, lease_s / 4))
        self._url = url
        self._beat = beat
        self._on_renewal = on_renewal
        self._on_time = on_time
        self._members: tuple[Membership, ...] = ()  # replaced, never changed: the thread reads it
        self._news: deque[tuple[Membership, Renewal | Exception]] = deque()
        self._broken: set[int] = set()
        self._async = gevent.get_hub().loop.async_()
        self._stopping = False

    def start(self) -> None:
        """Start the thread."""
        self._async.start(self._tell)
        _start_native_thread(self._run, ())

    def stop(self) -> None:
        """Let the thread end after its present round."""
        self._stopping = True

    def add(self, membership: Membership) -> None:
        """Keep this one alive too."""
        self._members = (*self._members, membership)

    def remove(self, membership: Membership) -> None:
        """Let this one go."""
        self._members = tuple(member for member in self._members if member is not membership)

    def _run(self) -> None:
        link = Link(self._url, self._profile)
        while not self._stopping:
            self._beat(boottime())
            members = [member for member in self._members if not member.lost]
            answered = not members
            try:
                answered = answered or self._renew(link, members)
            except Exception as error:
                # A thread that ended would lose every lease.
                if not passing(error):
                    self._complain(members[0], error)
            if not answered:
                link.close()
            _native_sleep(self._interval if answered else min(self._interval / 4, RETRY_S))
        link.close()

    def _renew(self, link: Link, members: Sequence[Membership]) -> bool:
        """Renew all in one round trip, or many groups on a slow network would use up the lease; False: not now."""
        sent = boottime()
        answered = True
        renewals = renew_all(link.replies, [one.group for one in members])
        received = boottime()
        for member, renewal in zip(members, renewals, strict=True):
            if not isinstance(renewal, Renewal):
                if passing(renewal):
                    answered = False
                else:
                    # Somebody wrote nonsense over this group's keys.
                    self._complain(member, renewal)
                continue
            self._broken.discard(member.number)
            self._on_time(renewal.server_ms, received)
            if renewal.held:
                member.deadline = sent + self._lease_s
                if renewal.version == member.choice_version and not renewal.ranked:
                    continue
                member.choice_version = renewal.version
            else:
                member.lost = True
            self._news.append((member, renewal))
            self._async.send()
        return answered

    def _complain(self, member: Membership, error: Exception) -> None:
        if member.number not in self._broken:
            self._broken.add(member.number)
            self._news.append((member, error))
            self._async.send()

    def _tell(self) -> None:
        while self._news:
            gevent.spawn(self._on_renewal, *self._news.popleft())
