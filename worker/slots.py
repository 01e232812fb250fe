"""How many messages this process may take: free slots, shared by the readers of all its subscriptions."""

from __future__ import annotations

from gevent.event import Event


class Slots:
    """``total`` messages may be queued or running at once. Readers that wait on the server reserve theirs.

    ``changed`` wakes the readers that found no room: a slot became free, or something else they waited for
    happened.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.reserved = 0
        self.wanted = False
        """A takeover waits for a free slot: readers leave the next one to it."""
        self.changed = Event()

    @property
    def free(self) -> int:
        """Slots neither used nor reserved."""
        return self.total - self.used - self.reserved

    def notice(self) -> None:
        """Wake the readers that wait for room."""
        if not self.changed.is_set():
            self.changed.set()
