"""Sends what waits in the outbox, in order: one thread per process, one process of the host at a time.

Works under gevent too, where the thread is a greenlet.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import msgspec

from taskstream.broker import Broker, Envelope
from taskstream.broker.publisher import CHUNK, REMEMBER_PUBLISHED_S, Sent
from taskstream.errors import BrokerUnavailable, TaskstreamError
from taskstream.logs import engine_logger
from taskstream.outbox.rows import OutboxProblem, Row, Rows
from taskstream.retry import backoff_delay

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


BACKOFF_S = 0.1
BACKOFF_MAX_S = 5.0
"""Pauses between two tries while Redis is away, or a stream full."""

IDLE_S = 5.0
"""How often a process that sends nothing looks for what another one, killed meanwhile, has left."""

ELSEWHERE_S = 0.5
"""How soon to look again when another process is sending."""


class State(Enum):
    """What one look at the outbox found."""

    EMPTY = "nothing waits"
    ELSEWHERE = "another process is sending"
    STUCK = "something could not be sent"


class Flusher:
    """See the module. ``broker()`` gives the broker to send to."""

    def __init__(self, rows: Rows, broker: Callable[[], Broker]) -> None:
        self._rows = rows
        self._broker = broker
        self._lock_path = rows.path.with_suffix(".flush")
        self._log = engine_logger("outbox")
        self._said: dict[str, str] = {}
        self._sent: list[tuple[int, str]] = []
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the thread; that of a parent process is its own, and so is the lock that it may hold."""
        descriptor = getattr(self, "_held", None)
        if descriptor is not None:
            os.close(descriptor)
        self._held: int | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._wake = threading.Event()
        self._ending = False

    def start(self) -> None:
        """Start the thread, unless it runs."""
        self._ending = False
        if self._thread is None or not self._thread.is_alive():
            with self._starting:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="taskstream-outbox", daemon=True)
                    self._thread.start()

    def wake(self) -> None:
        """Something waits now."""
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Send what can be sent at once, within ``timeout`` s, and end the thread."""
        thread = self._thread
        if thread is not None:
            self._ending = True
            self._wake.set()
            thread.join(timeout)

    def _run(self) -> None:
        tries = 0
        while True:
            self._wake.clear()
            try:
                state, moved = self.flush()
            except OutboxProblem as problem:
                self._say("", f"Outbox cannot be read, trying on: {problem}")
                state, moved = State.STUCK, False
            except Exception as error:
                # A thread that dies would look like a Redis that never comes back.
                self._log.error("Sending from the outbox failed, trying on", {"outbox": self._rows.path}, exc=error)
                state, moved = State.STUCK, False
            tries = 0 if moved or state is not State.STUCK else tries + 1
            if self._ending:
                return
            if state is State.EMPTY:
                self._wake.wait(IDLE_S)
                continue
            # What is added meanwhile goes behind what could not be sent, so it is no reason to try earlier.
            pause = ELSEWHERE_S * random.uniform(0.5, 1.0)
            if state is State.STUCK:
                longest = backoff_delay(
                    tries, base=BACKOFF_S, maximum=BACKOFF_MAX_S, jitter=False, uniform=random.uniform
                )
                pause = random.uniform(longest / 2, longest)
            deadline = time.monotonic() + pause
            while not self._ending and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))

    def flush(self) -> tuple[State, bool]:
        """Send what waits, for each stream until nothing is left or something cannot be sent.

        Returns how it is now, and whether anything was sent. Raises OutboxProblem.
        """
        if not self._rows.streams():
            self._said.clear()
            return State.EMPTY, False
        with self._lock() as locked:
            if not locked:
                return State.ELSEWHERE, False
            self._forget_sent([])
            moved = stuck = False
            for stream in self._rows.streams():
                sent, error = self._flush_stream(stream)
                moved |= sent > 0
                stuck |= error is not None
                if sent:
                    self._log.info("Outbox sent what waited", {"stream.name": stream, "count": sent})
                if isinstance(error, BrokerUnavailable):
                    self._say("", f"Outbox waits for the broker: {error}")
                    break
                if error is not None:
                    self._say(stream, f"Outbox waits: {error}")
            return State.STUCK if stuck else State.EMPTY, moved

    def _flush_stream(self, stream: str) -> tuple[int, TaskstreamError | None]:
        """Send to one stream; how many were sent, and why no more."""
        sent = 0
        while rows := self._rows.head(stream, CHUNK):
            self._warn_of_old(rows)
            found = self._send(rows)
            certain = [
                (row.position, row.envelope.message.id)
                for row, one in zip(rows, found.ids, strict=True)
                if one is not None
            ]
            if certain:
                self._forget_sent(certain)
                sent += len(certain)
            if isinstance(found.error, BrokerUnavailable) and found.error.maybe_sent:
                self._rows.mark_tried([row.position for row in rows[len(certain) :]], now_ms())
            if found.error is not None:
                return sent, found.error
        return sent, None

    def _forget_sent(self, sent: Sequence[tuple[int, str]]) -> None:
        """Remove rows that are in Redis; before anything else is sent, also where the disk refused that before."""
        self._sent += sent
        if self._sent:
            self._rows.remove(self._sent)
            self._sent = []

    def _send(self, rows: Sequence[Row]) -> Sent:
        try:
            return self._broker().try_many([_aged(row, now_ms()) for row in rows], in_order=True)
        except TaskstreamError as error:  # a broker URL that cannot be used
            return Sent([None] * len(rows), error)

    def _warn_of_old(self, rows: Sequence[Row]) -> None:
        """The server knows for a day what it published; a message that had no answer before that may be there twice."""
        limit = now_ms() - REMEMBER_PUBLISHED_S * 1000
        for row in rows:
            if row.tried_ms is not None and row.tried_ms < limit:
                fields = {"message.id": row.envelope.message.id, "stream.name": row.envelope.stream}
                self._log.warning("Sending once more what may have been sent more than a day ago", fields)

    @property
    def trouble(self) -> str:
        """What could not be done since the outbox was empty last; empty if nothing."""
        return "; ".join(self._said.values())

    def _say(self, about: str, text: str) -> None:
        """Log a trouble once, until the outbox is empty or it is another one."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._log.warning(text, {"outbox": self._rows.path})

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        """Hold the right to send, if no other process of this host has it. A dead holder's is free."""
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutboxProblem(f"outbox {self._rows.path}: {error}") from error
        try:
            _try_lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise OutboxProblem(f"outbox {self._rows.path}: {error}") from error
            yield False
            return
        self._held = descriptor
        try:
            yield True
        finally:
            self._held = None
            # Not by closing alone: a process forked meanwhile has the same lock open.
            _unlock(descriptor)
            os.close(descriptor)


def now_ms() -> int:
    """This host's clock: for what is logged, and for how long a message has waited here."""
    return time.time_ns() // 1_000_000


def _aged(row: Row, now: int) -> Envelope:
    """The envelope of a message that has waited since its call: what counts from then has that much less to go."""
    envelope, message = row.envelope, row.envelope.message
    waited = max(0, now - row.added_ms)
    if envelope.delay_ms is not None:
        envelope = envelope._replace(delay_ms=max(0, envelope.delay_ms - waited))
    if message.expires_in_ms is not None:
        left = max(0, message.expires_in_ms - waited)
        envelope = envelope._replace(message=msgspec.structs.replace(message, expires_in_ms=left))
    return envelope
