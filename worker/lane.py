"""One standing greenlet of the executor, and what the shared table says of it. It runs nothing itself."""

from __future__ import annotations

import gevent

from taskstream.handler import Settings

from .membership import Job, Membership
from .table import Table


class Lane:
    """One standing greenlet: what it runs, and until when (monotonic s); ``marked`` is what the table says of it.

    ``limits`` are the settings of what runs, where hooks or time limits are watched over; None for all else.
    """

    __slots__ = ("deadline", "greenlet", "index", "job", "limits", "marked", "table")

    def __init__(self, index: int, table: Table) -> None:
        self.index = index
        self.table = table
        self.marked: Job | None = None
        self.job: Job | None = None
        self.deadline: float | None = None
        self.limits: Settings | None = None
        self.greenlet: gevent.Greenlet[..., None] | None = None

    def forget(self, job: Job) -> None:
        """``job`` is no longer this process': whatever becomes of the process is not its doing."""
        if self.marked is job:
            self.marked = None
            self.table.finish(self.index)

    def forget_committed(self, membership: Membership) -> None:
        """A batch of ``membership`` was committed: what it held no longer is no doing of this process either."""
        job = self.marked
        if job is not None and job.membership is membership and job.at not in membership.jobs:
            self.forget(job)
