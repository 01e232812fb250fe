"""One worker process as its supervisor sees it: starts it, gives it orders, takes in what it tells, reads its table.

It decides nothing: when to start, stop or kill is the supervisor's business.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

import msgspec

from taskstream.logs import FieldLogger

from . import orders, table
from .backoff import Backoff
from .clock import boottime
from .memory import resident
from .options import PoolOptions, ProcessOptions
from .siblings import Forked
from .told import Lease

MAX_REPORT = 64 * 1024
"""Bytes of a report. Names have 200 letters at most and a URL is some more; what is longer is nonsense."""


MOST_READS = 4
"""Reads of 64 KB that one look at the reports takes at most: nobody may keep the supervisor busy with rubbish."""


class Child:
    """One worker process and what it told.

    ``successor`` is the one that takes its place, and ``draining`` says that it has: this one finishes what it runs.
    ``worn`` is why it is to be replaced, ``first_rss`` the memory (bytes) it took when it was ready, if anyone
    wants to know. ``timed_out`` is when (monotonic, s) it was killed for a message that ran too long.
    """

    def __init__(self, index: int, name: str, log: FieldLogger) -> None:
        self.index = index
        self.name = name
        self.backoff = Backoff(0.2, 30.0)
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.leases: dict[int, Lease] = {}
        """By the number of the membership."""
        self.table: table.Table | None = None
        self.config_error: str | None = None
        self.ready = False
        self.broker_url = ""
        """Which broker it uses, known once it is ready."""
        self.worn: str | None = None
        self.successor: Child | None = None
        self.draining = False
        self.timed_out: float | None = None
        self.first_rss = 0
        self._weighed = False
        self.deaf_since: float | None = None
        """Boottime (s) since when it can report no more, although nobody has seen it end."""
        self.given_up = False
        """It was killed because it did not stop, or could not be talked to."""
        self.forced = False
        """It was killed because the operator would not wait: what ran there is not to blame."""
        self.reports_fd = -1
        self._told_nonsense = False
        self._log = log
        self._file: IO[bytes] | None = None
        self._orders_fd = -1
        self._rest = b""

    def start(self, pool: PoolOptions) -> None:
        """Start the process with fresh pipes and table. Raises OSError, with nothing left of the attempt."""
        start_together([self], pool)

    def open(self, pool: PoolOptions) -> ProcessOptions:
        """Fresh pipes and table for a process that is to be started; its ends are the caller's to close."""
        self._rest = b""
        self._weighed = pool.max_memory_per_process is not None
        self.config_error = self.worn = self.timed_out = None
        self.ready = self.given_up = self.forced = self._told_nonsense = False
        self.deaf_since = None
        orders_read, self._orders_fd = os.pipe()
        try:
            self.reports_fd, reports_write = os.pipe()
        except OSError:
            os.close(orders_read)
            raise
        try:
            os.set_blocking(self.reports_fd, False)
            self._file = table.create(pool.concurrency)
            self.table = table.Table(self._file.fileno(), pool.concurrency)
        except BaseException:
            os.close(orders_read)
            os.close(reports_write)
            raise
        return ProcessOptions(pool, self.name, self.index, orders_read, reports_write, self._file.fileno())

    def is_deaf(self) -> bool:
        """Whether it can report no more."""
        return self.deaf_since is not None

    @property
    def starting(self) -> bool:
        """Whether its process is about to be forked by another."""
        return isinstance(self.process, Forked) and self.process.starting

    def order(self, order: bytes) -> None:
        """Send an order; a child that is gone hears nothing."""
        with contextlib.suppress(OSError):
            while order:  # a signal may cut one short that is longer than the pipe
                order = order[os.write(self._orders_fd, order) :]

    def read_reports(self, lease_ms: int) -> None:
        """Take in what the child has told since; the rest of very much is left for the next time."""
        for _ in range(MOST_READS):
            try:
                data = os.read(self.reports_fd, 65536)
            except BlockingIOError:
                return
            if not data:
                self.deaf_since = self.deaf_since or boottime()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > MAX_REPORT:
                lines.append(self._rest)
                self._rest = b""
            for line in lines:
                try:
                    self._hear(msgspec.json.decode(line, type=orders.Report), lease_ms)
                except Exception:
                    # Code of the application wrote to a descriptor that is not its own.
                    self._complain(line)

    def _complain(self, line: bytes) -> None:
        if not self._told_nonsense:
            self._told_nonsense = True
            said = {"worker": self.name, "text": repr(line[:80])}
            self._log.warning("Worker process told nonsense, more of it will not be mentioned", said)

    def _hear(self, report: orders.Report, lease_ms: int) -> None:
        if report.kind == "begin":
            self.leases[report.number] = Lease(report.url, report.stream, report.group, report.consumer, lease_ms)
        elif report.kind == "end":
            self.leases.pop(report.number, None)
        elif report.kind == "ready":
            self.ready = True
            self.broker_url = report.url
            if self._weighed:
                self.first_rss = self.rss()
        elif report.kind == "forked" and isinstance(self.process, Forked):
            self.process.born(report.number)
        elif report.kind == "worn":
            self.worn = report.text
        elif report.kind == "config_error":
            self.config_error = report.text

    def started(self) -> list[table.Started]:
        """The messages that had started, and whose end was perhaps not committed."""
        return list(self.table.started()) if self.table is not None else []

    def rss(self) -> int:
        """Bytes of memory the process has resident, 0 if it is gone."""
        return resident(self.process.pid) if self.process is not None else 0

    def forget(self) -> None:
        """Close what belonged to the dead process."""
        for fd in (self._orders_fd, self.reports_fd):
            if fd >= 0:
                os.close(fd)
        self._orders_fd = self.reports_fd = -1
        if self.table is not None:
            self.table.close()
        if self._file is not None:
            self._file.close()
        self.table = self._file = self.process = None
        self.leases = {}


def start_together(children: Sequence[Child], pool: PoolOptions) -> None:
    """Start the processes of ``children``, several by forking one. Raises OSError, with nothing left of the attempt."""
    opened: list[ProcessOptions] = []
    try:
        for child in children:
            opened.append(child.open(pool))
        inherited = [fd for one in opened for fd in (one.orders_fd, one.reports_fd, one.table_fd)]
        argv = [sys.executable, "-m", "taskstream_worker.child", ",".join(str(one.orders_fd) for one in opened)]
        # A Ctrl-C that comes before the process knows that it ignores those would end it.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, orders.IGNORED_SIGNALS)
        try:
            process = subprocess.Popen(
                [*argv, *(child.name for child in children)], stdin=subprocess.DEVNULL, pass_fds=inherited
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
    except BaseException:
        for child in children:
            child.forget()
        raise
    finally:
        for one in opened:
            os.close(one.orders_fd)
            os.close(one.reports_fd)
    for child, options in zip(children, opened, strict=True):
        child.process = process if len(opened) == 1 else Forked(process, child.is_deaf)
        # Over the pipe, because the URLs in them may hold passwords and anyone can read a command line.
        child.order(msgspec.json.encode(options) + b"\n")
        child.started_at = boottime()


def is_running(pid: int) -> bool:
    """Whether the process can run: not stopped, traced, dead or a zombie (proc(5), state in /proc/PID/stat)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        # No /proc on this system: a child that is not reaped counts as running.
        return not os.path.isdir("/proc")
    except OSError:
        return True  # no descriptor left to look with, perhaps: that must not cost the child its lease
    return state not in b"TtZX"


def how_it_ended(status: int) -> str:
    """A process' end in words: ``status 7``, ``SIGKILL``."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
