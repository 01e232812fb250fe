"""What the consumers of one process share. It holds, and does nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from taskstream.broker import Broker
from taskstream.logs import FieldLogger

from .lease import LeaseKeeper
from .membership import Job, Membership
from .server_clock import ServerClock
from .slots import Slots

if TYPE_CHECKING:
    from .consumer import Consumer


class Queue(Protocol):
    """The executor, as the reader needs it. ``closed``: it starts nothing, because a suspect is to run alone."""

    @property
    def closed(self) -> bool: ...

    @property
    def put(self) -> Callable[[Job], None]: ...

    def withdraw(self, consumer: Consumer) -> list[Job]: ...

    def terminate(self, consumer: Consumer) -> None: ...


@dataclass
class Surroundings:
    """What all consumers of a process share."""

    broker: Broker
    slots: Slots
    queue: Queue
    leases: LeaseKeeper
    log: FieldLogger
    worker: str
    lease_ms: int
    keep_results: bool
    alone: bool
    report: Callable[[Membership, bool], None]
    """Tells the supervisor about a consumer name: before it is used, and (True) when it is over."""
    clock: ServerClock = field(default_factory=ServerClock)
    paused: str | None = None
    """Why the process takes no new messages, None while it does."""
