"""The pool: starts worker processes, restarts dead ones with backoff, replaces worn ones, stops them cleanly.

It runs no code of the application and is not patched by gevent. Signals reach only this process; its children
take orders over a pipe. When a child dies it counts what had started there and gives its leases up at once; when a
living child cannot renew by itself, it renews for it; a child whose message runs longer than its hard time limit is
killed.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from taskstream import logs

from . import orders
from .clock import boottime
from .options import PoolOptions
from .releases import Releases
from .siblings import adopt
from .spawned import Child, how_it_ended, is_running, start_together
from .told import NotNow

HEALTHY_S = 30.0
"""A process that lived this long starts its backoff over when it dies."""

KILL_MARGIN_S = 12.0
"""How much longer than its grace a stopping child may take before it is killed."""

NOW_S = 10.0
"""How long a child may take that was told to end at once: to interrupt what runs, and for its last commits."""

DEAF_S = 1.0
"""How long a child that can report no more may take to end by itself."""

RELEASE_S = 3.0
"""How long the end of a pool waits for a broker that does not answer."""

SHORT_LEASE_S = 3.0
"""Of a shorter lease too little may be left to load what renews it, once a child is seen to hang."""

TICK_S = 1.0
WEIGH_S = 1.0
MB = 1_000_000

EXIT_OK = 0
EXIT_FORCED = 1
EXIT_CONFIG = 2

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Runs a pool until it is told to stop.

    ``on_broker(url)`` is called once, when a process is ready, with the URL of the broker that it uses.
    """

    def __init__(self, options: PoolOptions, on_broker: Callable[[str], None] | None = None) -> None:
        self._options = options
        self._on_broker = on_broker
        self._lease_ms = int(options.lease * 1000)
        # Often enough to renew in time for a child that cannot.
        self._tick = min(TICK_S, options.lease / 4)
        self._log = logs.engine_logger("supervisor")
        self._count = options.processes or os.cpu_count() or 1
        self._name = f"{options.name or platform.node() or 'worker'}.{os.getpid()}"
        self._children = [self._child(index) for index in range(1, self._count + 1)]
        self._releases = Releases(self._log)
        self._overdue_at = math.inf
        self._weigh_at = 0.0
        self._fat: set[str] = set()
        self._stopping: float | None = None
        self._hurried: float | None = None
        self._signals = 0
        self._forced = False
        self._config_error: str | None = None
        self._was_ready = False
        self._adopting = False
        """Whether what a dead child leaves behind becomes a child of this process; only while several are started."""
        self._selector = selectors.DefaultSelector()

    def _child(self, index: int) -> Child:
        return Child(index, f"{self._name}.{index}", self._log)

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
            with contextlib.suppress(OSError):
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
            self._stop_adopting()
            if self._stopping is not None and all(child.process is None for child in self._children):
                self._releases.finish(RELEASE_S)
                return
            self._start_due()
            self._kill_overdue()
            self._replace_worn()
            self._releases.turn()
            self._renew_for_hung()
            self._kill_unstoppable()
            for key, _ in self._selector.select(self._pause()):
                if key.fileobj is wake:
                    with contextlib.suppress(BlockingIOError):
                        wake.recv(4096)
                else:
                    key.data.read_reports(self._lease_ms)
                    self._note_ready(key.data)
                    if key.data.deaf_since is not None:
                        self._selector.unregister(key.fileobj)  # it would be ready for ever

    def _note_ready(self, child: Child) -> None:
        self._was_ready |= child.ready
        if child.ready and self._on_broker is not None:
            self._on_broker(child.broker_url)
            self._on_broker = None

    def _pause(self) -> float:
        now = boottime()
        pauses = [self._tick if self._stopping is None else min(self._tick, 0.2)]
        pauses.append(self._overdue_at - time.monotonic())
        if self._stopping is None:
            pauses += [child.start_at - now for child in self._children if child.process is None]
        if self._releases.next is not None:
            pauses.append(self._releases.next - now)
        return max(0.0, min(pauses))

    def _ask_to_stop(self, asked: int) -> None:
        if self._stopping is None:
            self._stopping = boottime()
        if asked > 1 and self._hurried is None:
            self._hurried = boottime()
        if self._config_error is None:
            self._log.info("Pool stops" if asked == 1 else "Pool stops now")
        for child in self._children:
            if child.process is not None:
                child.order(orders.STOP if asked == 1 else orders.NOW)

    def _start_due(self) -> None:
        if self._stopping is not None:
            return
        due = [child for child in self._children if child.process is None and boottime() >= child.start_at]
        if len(due) > 1 and not self._adopting:
            self._adopting = adopt(True)
        for together in [due] if self._adopting and len(due) > 1 else [[child] for child in due]:
            try:
                start_together(together, self._options)
            except OSError as error:
                for child in together:
                    child.start_at = boottime() + child.backoff.next()
                    said = {"worker": child.name}
                    self._log.error("Worker process cannot be started, trying on", said, exc=error)
                continue
            for child in together:
                self._selector.register(child.reports_fd, selectors.EVENT_READ, child)
            if self._options.lease < SHORT_LEASE_S:
                self._releases.prepare()  # while they load

    def _reap(self) -> None:
        for child in list(self._children):
            process = child.process
            status = process.poll() if process is not None else None
            if process is None or status is None:
                continue
            child.read_reports(self._lease_ms)
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.reports_fd)
            self._forced |= self._stopping is not None and status != EXIT_OK
            killed = child.timed_out is not None and status == -signal.SIGKILL
            if boottime() - child.started_at > HEALTHY_S:
                child.backoff.reset()
            # What was killed for its message, or has its successor already, is no sign of anything broken.
            pause = 0.0 if killed or child.successor is not None else child.backoff.next()
            child.start_at = boottime() + pause
            self._tell_end(child, status, pause, killed)
            self._speak_for_dead(child, killed)
            child.forget()
            if child.successor is not None:
                self._children.remove(child)

    def _stop_adopting(self) -> None:
        """As soon as all are children of this process: what the tasks' own programs leave behind is not for it."""
        if self._adopting and not any(child.starting for child in self._children):
            adopt(False)
            self._adopting = False

    def _tell_end(self, child: Child, status: int, pause: float, killed: bool) -> None:
        """One line for each end that nobody asked for."""
        said: dict[str, object] = {"worker": child.name}
        if self._stopping is None and child.successor is None:
            said["next_start_s"] = round(pause, 1)
        if child.config_error is not None and not self._was_ready:
            self._config_error = child.config_error
        elif child.config_error is not None:
            # The code was changed under a running pool: it goes on when the code works again.
            self._log.error("Worker process cannot start", {**said, "reason": child.config_error})
        elif child.draining and status == EXIT_OK:
            self._log.info("Worker process has ended, replaced", said)
        elif not killed and (self._stopping is None or status not in (EXIT_OK, EXIT_FORCED)):
            assert child.process is not None
            said = {"worker": child.name, "pid": child.process.pid, "status": how_it_ended(status), **said}
            self._log.error("Worker process died", said)

    def _speak_for_dead(self, child: Child, killed: bool) -> None:
        """Give its leases up, so that nobody waits for them to run out, and count what had started."""
        started: dict[int, dict[str, str]] = {}
        for one in child.started() if not child.forced else ():
            # One that ended just before the process was killed for it is not here any more, and nobody is to blame.
            if not killed:
                started.setdefault(one.membership, {})[one.message_id] = ""
            elif one.overdue(child.timed_out or 0.0):
                why = f"ran longer than its hard_timeout of {one.hard_timeout:g} s"
                started.setdefault(one.membership, {})[one.message_id] = why
        for number, lease in child.leases.items():
            self._releases.add(child.name, lease, started.get(number, {}))

    # -- time limits -------------------------------------------------------------------------------------

    def _kill_overdue(self) -> None:
        """End the processes whose message has run longer than its hard time limit."""
        now = time.monotonic()
        self._overdue_at = math.inf
        for child in self._children:
            if child.process is None or child.table is None or child.timed_out is not None:
                continue
            shortest = child.table.shortest_limit()
            if not shortest:
                continue
            limited = [one for one in child.started() if one.deadline]
            overdue = [one for one in limited if one.overdue(now)]
            if overdue:
                said = {"worker": child.name, "pid": child.process.pid, "message.id": overdue[0].message_id}
                said |= {"hard_timeout": overdue[0].hard_timeout, "count": len(overdue)}
                self._log.error("Message ran longer than its hard_timeout, replacing its worker process", said)
                child.timed_out = now
                child.process.kill()
            else:
                # What starts after this look cannot be due before the shortest limit has passed.
                self._overdue_at = min(self._overdue_at, now + shortest, *(one.deadline for one in limited))

    # -- replacing what is worn --------------------------------------------------------------------------

    def _replace_worn(self) -> None:
        """One at a time: its successor is started, and it drains only when that one is ready."""
        if self._stopping is not None:
            return
        for child in self._children:
            successor = child.successor
            if successor is not None and successor.ready and child.process is not None and not child.draining:
                child.draining = True
                child.order(orders.DRAIN)
        if any(child.successor is not None and not child.draining for child in self._children):
            return
        self._weigh()
        # Those with long messages drain for long; so many at a time at most.
        if sum(child.draining for child in self._children) >= self._count:
            return
        for child in self._children:
            if child.worn is not None and child.successor is None and child.process is not None:
                taken = {other.index for other in self._children}
                child.successor = self._child(min(set(range(1, len(taken) + 2)) - taken))
                self._children.append(child.successor)
                said = {"worker": child.name, "reason": child.worn, "by": child.successor.name}
                self._log.info("Worker process is replaced", said)
                return

    def _weigh(self) -> None:
        most = self._options.max_memory_per_process
        if most is None or boottime() < self._weigh_at:
            return
        self._weigh_at = boottime() + WEIGH_S
        for child in self._children:
            if not child.ready or child.worn is not None:
                continue
            if child.first_rss >= most * MB:
                # Its successors would be no smaller.
                if child.name not in self._fat:
                    self._fat.add(child.name)
                    said = {"worker": child.name, "mb": child.first_rss // MB}
                    self._log.warning("Worker process takes more memory than it may before it has run anything", said)
            elif (rss := child.rss()) >= most * MB:
                child.worn = f"takes {rss // MB} MB of memory"

    def _renew_for_hung(self) -> None:
        """A child whose heartbeat is stale although it lives, and is not stopped, is busy in C code."""
        stale = self._options.lease / 2
        for child in self._children:
            if child.process is None or child.table is None or not child.leases:
                continue
            behind = boottime() - child.table.last_beat()
            if behind >= self._options.lease / 3:
                self._releases.prepare()
            if behind < stale or not is_running(child.process.pid):
                continue
            for number, lease in list(child.leases.items()):
                try:
                    self._releases.proxy().renew(lease)
                except NotNow:
                    continue
                except Exception as error:
                    # No code of the application that wrote a report of its own may end the supervisor.
                    del child.leases[number]
                    self._log.error("Worker process told of a lease that cannot be", {"worker": child.name}, exc=error)

    def _kill_unstoppable(self) -> None:
        now = boottime()
        late = self._stopping is not None and now >= self._stopping + self._options.grace + KILL_MARGIN_S
        hurried = self._hurried is not None and now >= self._hurried + NOW_S
        for child in self._children:
            if child.process is None or child.given_up:
                continue
            if late or hurried:
                problem = "Worker process does not stop, killing it"
            elif child.deaf_since is not None and now >= child.deaf_since + DEAF_S:
                problem = "Worker process has closed the pipe it reports over, killing it"
            else:
                continue
            child.given_up = True
            child.forced = hurried
            self._log.error(problem, {"worker": child.name, "pid": child.process.pid})
            child.process.kill()
