"""The pool: starts worker processes, restarts dead ones with backoff, stops them cleanly, speaks for the dead.

It runs no code of the application and is not patched by gevent. Signals reach only this process; its children
take orders over a pipe. When a child dies it counts what had started there and gives its leases up at once;
when a living child cannot renew by itself, it renews for it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import signal
import socket
import subprocess
import sys
from types import FrameType
from typing import IO

import msgspec
import redis

from taskstream import logs
from taskstream.broker.group import ConsumerGroup
from taskstream.connection import Profile
from taskstream.errors import ConfigError
from taskstream.link import Link

from . import orders, table
from .backoff import Backoff
from .clock import boottime
from .options import PoolOptions, ProcessOptions

HEALTHY_S = 30.0
"""A process that lived this long starts its backoff over when it dies."""

KILL_MARGIN_S = 12.0
"""How much longer than its grace a stopping child may take before it is killed."""

TICK_S = 1.0
RELEASE_TRIES = 3

EXIT_OK = 0
EXIT_FORCED = 1
EXIT_CONFIG = 2

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Child:
    """One worker process and what it told."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.backoff = Backoff(0.2, 30.0)
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.groups: dict[int, tuple[str, ConsumerGroup]] = {}
        self.table: table.Table | None = None
        self.config_error: str | None = None
        self.ready = False
        self._file: IO[bytes] | None = None
        self._orders_fd = -1
        self.reports_fd = -1
        self._rest = b""

    def start(self, pool: PoolOptions) -> None:
        """Start the process with fresh pipes and table."""
        orders_read, self._orders_fd = os.pipe()
        self.reports_fd, reports_write = os.pipe()
        os.set_blocking(self.reports_fd, False)
        self._file = table.create(pool.concurrency)
        self.table = table.Table(self._file.fileno(), pool.concurrency)
        inherited = (orders_read, reports_write, self._file.fileno())
        options = ProcessOptions(pool, self.name, self.index, *inherited)
        self._rest = b""
        self.groups = {}
        self.config_error = None
        self.ready = False
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskstream_worker.child", str(orders_read), self.name],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
            )
        finally:
            os.close(orders_read)
            os.close(reports_write)
        # Over the pipe, because the URLs in them may hold passwords and anyone can read a command line.
        self.order(msgspec.json.encode(options) + b"\n")
        self.started_at = boottime()

    def order(self, order: bytes) -> None:
        """Send an order; a child that is gone hears nothing."""
        with contextlib.suppress(OSError):
            os.write(self._orders_fd, order)

    def read_reports(self, lease_ms: int) -> None:
        """Take in what the child has told since."""
        while True:
            try:
                data = os.read(self.reports_fd, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._hear(msgspec.json.decode(line, type=orders.Report), lease_ms)

    def _hear(self, report: orders.Report, lease_ms: int) -> None:
        if report.kind == "begin":
            self.groups[report.number] = (
                report.url,
                ConsumerGroup(report.stream, report.group, report.consumer, lease_ms),
            )
        elif report.kind == "end":
            self.groups.pop(report.number, None)
        elif report.kind == "ready":
            self.ready = True
        elif report.kind == "config_error":
            self.config_error = report.text

    def started_by_group(self) -> dict[int, list[str]]:
        """Ids of the messages that had started, by membership number."""
        found: dict[int, list[str]] = {}
        if self.table is not None:
            for number, message_id in self.table.started():
                found.setdefault(number, []).append(message_id)
        return found

    def forget(self) -> None:
        """Close what belonged to the dead process."""
        for fd in (self._orders_fd, self.reports_fd):
            os.close(fd)
        self._orders_fd = self.reports_fd = -1
        if self.table is not None:
            self.table.close()
        if self._file is not None:
            self._file.close()
        self.table = self._file = self.process = None
        self.groups = {}


class Supervisor:
    """Runs a pool until it is told to stop."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._lease_ms = int(options.lease * 1000)
        count = options.processes or os.cpu_count() or 1
        name = options.name or platform.node() or "worker"
        self._children = [Child(index, f"{name}.{os.getpid()}.{index}") for index in range(1, count + 1)]
        self._stopping: float | None = None
        self._signals = 0
        self._forced = False
        self._config_error: str | None = None
        self._was_ready = False
        self._links: dict[str, Link] = {}
        self._selector = selectors.DefaultSelector()
        self._log = logs.engine_logger("supervisor")

    def run(self) -> int:
        """Supervise; return the exit status: 0 stopped cleanly, 1 something was interrupted, 2 configuration."""
        logs.configure(self._options.log_level or "INFO", self._options.log_format or "text")
        if self._options.niceness:
            os.nice(self._options.niceness)
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        self._selector.register(wake_read, selectors.EVENT_READ)
        old_fd = signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        old = {number: signal.signal(number, self._on_signal) for number in _STOP_SIGNALS}
        old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        try:
            self._loop(wake_read)
        finally:
            for child in self._children:
                if child.process is not None:
                    child.process.kill()
                    child.process.wait()
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)
            self._selector.close()
            wake_read.close()
            wake_write.close()
        if self._config_error is not None:
            print(f"taskstream: {self._config_error}", file=sys.stderr)
            return EXIT_CONFIG
        return EXIT_FORCED if self._forced else EXIT_OK

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _loop(self, wake: socket.socket) -> None:
        asked = 0
        while True:
            if self._signals > asked or (self._config_error is not None and self._stopping is None):
                asked = max(self._signals, 1)
                self._ask_to_stop(asked)
            self._reap()
            if self._stopping is not None and all(child.process is None for child in self._children):
                return
            self._start_due()
            self._renew_for_hung()
            self._kill_overdue()
            for key, _ in self._selector.select(self._pause()):
                if key.fileobj is wake:
                    with contextlib.suppress(BlockingIOError):
                        wake.recv(4096)
                else:
                    key.data.read_reports(self._lease_ms)
                    self._was_ready |= key.data.ready

    def _pause(self) -> float:
        due = [child.start_at - boottime() for child in self._children if child.process is None]
        return max(0.0, min([TICK_S if self._stopping is None else 0.2, *due]))

    def _ask_to_stop(self, asked: int) -> None:
        if self._stopping is None:
            self._stopping = boottime()
        if self._config_error is None:
            self._log.info("Pool stops" if asked == 1 else "Pool stops now")
        for child in self._children:
            if child.process is not None:
                child.order(orders.STOP if asked == 1 else orders.NOW)

    def _start_due(self) -> None:
        if self._stopping is not None:
            return
        for child in self._children:
            if child.process is None and boottime() >= child.start_at:
                try:
                    child.start(self._options)
                except OSError as error:
                    child.start_at = boottime() + child.backoff.next()
                    self._log.error("Worker process cannot be started, trying on", {"worker": child.name}, exc=error)
                    continue
                self._selector.register(child.reports_fd, selectors.EVENT_READ, child)

    def _reap(self) -> None:
        for child in self._children:
            process = child.process
            if process is None or process.poll() is None:
                continue
            child.read_reports(self._lease_ms)
            self._selector.unregister(child.reports_fd)
            status = process.returncode
            if child.config_error is not None and not self._was_ready:
                self._config_error = child.config_error
            elif child.config_error is not None:
                # The code was changed under a running pool: it goes on when the code works again.
                self._log.error("Worker process cannot start", {"worker": child.name, "reason": child.config_error})
            elif self._stopping is None or status not in (EXIT_OK, EXIT_FORCED):
                self._log.error("Worker process died", {"worker": child.name, "pid": process.pid, "status": status})
            self._forced |= self._stopping is not None and status != EXIT_OK
            self._speak_for_dead(child)
            if boottime() - child.started_at > HEALTHY_S:
                child.backoff.reset()
            child.start_at = boottime() + child.backoff.next()
            child.forget()

    def _speak_for_dead(self, child: Child) -> None:
        """Give its leases up at once, so that nobody waits for them to run out, and count what had started."""
        started = child.started_by_group()
        for number, (url, group) in child.groups.items():
            for attempt in range(RELEASE_TRIES):
                link = self._link(url)
                try:
                    group.release(link.call, dict.fromkeys(started.get(number, ()), ""))
                    break
                except (redis.RedisError, OSError, ConfigError) as error:
                    link.close()
                    if attempt == RELEASE_TRIES - 1:
                        # Its lease runs out by itself; then every message it held counts as started.
                        self._log.warning("Lease cannot be given up", {"worker": child.name, "error": error})

    def _renew_for_hung(self) -> None:
        """A child whose heartbeat is stale although it lives, and is not stopped, is busy in C code."""
        stale = self._options.lease / 2
        for child in self._children:
            if child.process is None or child.table is None or not child.groups:
                continue
            if boottime() - child.table.last_beat() < stale or not is_running(child.process.pid):
                continue
            for url, group in child.groups.values():
                link = self._link(url)
                try:
                    group.renew(link.call)
                except (redis.RedisError, OSError):
                    link.close()

    def _kill_overdue(self) -> None:
        if self._stopping is None or boottime() < self._stopping + self._options.grace + KILL_MARGIN_S:
            return
        for child in self._children:
            if child.process is not None:
                self._log.error("Worker process does not stop, killing it", {"worker": child.name})
                child.process.kill()

    def _link(self, url: str) -> Link:
        if url not in self._links:
            self._links[url] = Link(url, Profile(socket_timeout=1.0, connect_timeout=1.0))
        return self._links[url]


def is_running(pid: int) -> bool:
    """Whether the process can run: not stopped, traced, dead or a zombie (proc(5), state in /proc/PID/stat)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except FileNotFoundError:
        # No /proc on this system: a child that is not reaped counts as running.
        return not os.path.isdir("/proc")
    except OSError:
        return False
    return state not in b"TtZX"
