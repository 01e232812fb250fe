"""The contract of a result store: the record of one outcome, and what every store can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
RETRY = "RETRY"
REVOKED = "REVOKED"
FINAL_STATES = frozenset({SUCCESS, FAILURE, REVOKED})


class Failure(msgspec.Struct, frozen=True):
    """Why a message failed: class name of the exception, its text, the formatted traceback."""

    type: str
    message: str
    traceback: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one message in one group. Times are ms since the epoch, ``value`` is JSON.

    ``delivery`` is the number of the hand-out that produced it: a store replaces a record only by one of an
    equal or later delivery, because a worker may lose a message to another while its outcome is on the way
    to the disk. ``children`` are the ids of what its run has published, UNSET where that is nothing.
    """

    id: str
    group: str
    handler: str
    state: str
    delivery: int
    attempts: int
    sent_ms: int
    started_ms: int
    finished_ms: int
    worker: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None
    request_id: str | None = None
    children: list[str] | msgspec.UnsetType = msgspec.UNSET


class ResultStore(Protocol):
    """Keeps outcomes, one per message id and group. Every method may block; all are thread-safe.

    A process that forked uses the store as well: what it must not share with its parent it opens anew.
    """

    url: str
    """The URL it was opened from, paths made absolute. Processes whose stores have one URL keep them in one place."""

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Keep a batch, durable by the store's fsync policy when this returns.

        A record is replaced only by an outcome whose ``delivery`` is equal or higher. The same batch may come again.
        Raises OSError (or a store's own error that derives from it) if the batch could not be kept whole.
        """

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        """The outcomes of a message, of one group or of all; empty if there is none yet.

        Raises ResultUnavailable if the store cannot be reached.
        """

    def forget(self, message_id: str, group: str | None = None) -> None:
        """Delete the outcomes of a message, of one group or of all; nothing where there is none.

        Raises ResultUnavailable if the store cannot be reached.
        """

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        """Delete at most ``limit`` outcomes that finished longer ago than the retention; return how many."""

    def close(self) -> None:
        """Release files and connections; the next call opens them again."""
