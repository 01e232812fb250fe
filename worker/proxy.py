"""The supervisor's way to brokers: renews and gives up leases of its children in their stead, one try each.

Whose lease, and when to try again, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import redis

from taskstream.broker.group import ConsumerGroup
from taskstream.connection import Profile, passing
from taskstream.link import Link

from .told import Lease, NotNow

PROFILE = Profile(socket_timeout=1.0, connect_timeout=1.0)
"""The supervisor never waits for longer than a second."""


class Proxy:
    """A link to each broker that a lease was at."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    def release(self, lease: Lease, started: Mapping[str, str]) -> None:
        """Give up the lease; ``started`` as in ``ConsumerGroup.release``.

        Raises NotNow if waiting may help, and anything for what no lease can be or a broker refuses for good.
        """
        self._tell(lease, lambda group, call: group.release(call, started))

    def renew(self, lease: Lease) -> None:
        """Renew it. Raises as ``release`` does, but NotNow whatever the broker says: the next renewal may be heard."""
        try:
            self._tell(lease, lambda group, call: group.renew(call))
        except (redis.RedisError, OSError) as error:
            raise NotNow from error

    def _tell(self, lease: Lease, tell: Callable[[ConsumerGroup, Callable[..., Any]], object]) -> None:
        if lease.url not in self._links:
            self._links[lease.url] = Link(lease.url, PROFILE)
        link = self._links[lease.url]
        try:
            tell(ConsumerGroup(lease.stream, lease.group, lease.consumer, lease.lease_ms), link.call)
        except (redis.RedisError, OSError, ValueError) as error:
            link.close()
            if passing(error):
                raise NotNow from error
            raise
