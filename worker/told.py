"""A lease as its process tells the supervisor of it, apart from what can speak to a broker about it."""

from __future__ import annotations

from typing import NamedTuple


class Lease(NamedTuple):
    """What a worker process told of one of its leases: where it is, and how long (ms) it lasts."""

    url: str
    stream: str
    group: str
    consumer: str
    lease_ms: int


class NotNow(Exception):
    """It could not be told now, and later it may; the cause is the error."""
