"""Finds the outcome of a message in the app's result store, and waits for it. Decides nothing about its value."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from taskstream.app import location
from taskstream.app.waiter import Waiter
from taskstream.errors import BrokerUnavailable, ConfigError, ResultUnavailable
from taskstream.handler import QUEUE_GROUP
from taskstream.results.base import FINAL_STATES, Outcome, ResultStore

REREAD_S = 1.0
"""How often a waiter reads the store without having been told to: the safety net while Redis is away."""
REREAD_MOST = 500
"""How many of those who wait together are read so."""
RECHECK_S = 5.0
"""How long the answer to "where do the workers of this queue write?" is believed."""


class WorkerList(Protocol):
    """What is needed of the broker."""

    def workers(self) -> Sequence[Mapping[str, Any]]:
        """What each live worker says about itself. Raises BrokerUnavailable."""


class Outcomes:
    """The outcomes of one app's messages. Thread-safe."""

    def __init__(self, store: ResultStore, waiter: Waiter, broker: WorkerList) -> None:
        self._store = store
        self._waiter = waiter
        self._broker = broker
        self._lock = threading.Lock()
        self._checked: dict[str, float] = {}

    def read(self, message_id: str) -> Outcome | None:
        """What the store has of a message now. Raises ResultUnavailable if the store cannot be read."""
        found = self._store.read(message_id, QUEUE_GROUP)
        return found[0] if found else None

    def forget(self, message_id: str) -> None:
        """Delete what the store has of a message. Raises ResultUnavailable if it cannot."""
        self._store.forget(message_id, QUEUE_GROUP)

    def wait(
        self,
        message_id: str,
        queues: Sequence[str],
        timeout: float | None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """The final outcome of a message of one of ``queues``; None if there is none within ``timeout`` seconds.

        ``give_up`` is asked once a second at least: True ends the waiting.

        Raises ResultUnavailable if the store cannot be read, or if the queue's workers write to another one.
        """
        outcome = self._final(message_id)
        if outcome is not None or (timeout is not None and timeout <= 0):
            return outcome
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._waiter.waiting(message_id, queues) as event:
            while True:
                event.clear()
                outcome = self._final(message_id)
                if outcome is not None:
                    return outcome
                self.check_reachable(queues)
                left = REREAD_S if deadline is None else min(REREAD_S, deadline - time.monotonic())
                if left <= 0 or give_up():
                    return None
                event.wait(left)

    def finished(
        self, ids: Sequence[str], queues: Sequence[str], timeout: float | None
    ) -> Generator[Outcome, None, None]:
        """The final outcomes of messages of ``queues`` as they come; no more after ``timeout`` seconds.

        Each message is read when something is said of it, and now and then all the same. Raises as ``wait`` does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pending = dict.fromkeys(ids)
        with self._waiter.waiting_for_any(ids, queues) as heard:
            look, looked = list(pending), time.monotonic()
            while True:
                for message_id in look:
                    outcome = self._final(message_id) if message_id in pending else None
                    if outcome is not None:
                        del pending[message_id]
                        yield outcome
                if not pending:
                    return
                self.check_reachable(queues)
                left = REREAD_S if deadline is None else min(REREAD_S, deadline - time.monotonic())
                if left <= 0:
                    return
                look = heard.take(left)
                if time.monotonic() - looked >= REREAD_S:
                    # The oldest in the list, which go to its end: of many, some each time.
                    unasked = list(itertools.islice(pending, REREAD_MOST))
                    for message_id in unasked:
                        pending[message_id] = pending.pop(message_id)
                    look += unasked
                    looked = time.monotonic()

    @contextlib.contextmanager
    def watching(self, message_id: str, queues: Sequence[str]) -> Iterator[threading.Event]:
        """An event that is set when the message, of one of ``queues``, may have finished or changed its state.

        Look once after entering, and every few seconds: while Redis is away nothing is told.
        """
        with self._waiter.waiting(message_id, queues, states=True) as event:
            yield event

    def _final(self, message_id: str) -> Outcome | None:
        outcome = self.read(message_id)
        return outcome if outcome is not None and outcome.state in FINAL_STATES else None

    def check_reachable(self, queues: Sequence[str]) -> None:
        """Raise ResultUnavailable if a live worker of ``queues`` keeps its results where this process cannot read.

        Asks the broker once in RECHECK_S at most.
        """
        now = time.monotonic()
        with self._lock:
            due = [queue for queue in queues if now - self._checked.get(queue, float("-inf")) > RECHECK_S]
            # Marked before asking, so that of many waiters one asks.
            self._checked.update(dict.fromkeys(due, now))
        if not due:
            return
        try:
            workers = self._broker.workers()
        except (BrokerUnavailable, ConfigError):
            return  # known later; the store is read meanwhile
        here = location.describe(self._store, make_mark=False) or {}
        for worker in workers:
            streams = {entry.get("stream") for entry in worker.get("subscriptions", ())}
            concerned = [queue for queue in due if queue in streams]
            if not concerned or "results" not in worker:
                continue
            there = worker["results"]
            if not there or there.get("url") is None or not location.same(here, there):
                with self._lock:
                    for queue in concerned:
                        del self._checked[queue]  # the next waiter is told as well
                raise ResultUnavailable(_explain(worker, there, here))


def _explain(worker: Mapping[str, Any], there: Mapping[str, Any] | None, here: Mapping[str, Any]) -> str:
    name = worker.get("name")
    if not there or there.get("url") is None:
        return f"worker {name} keeps no results: start it with the result store {location.named(here)}"
    return (
        f"worker {name} keeps its results in {location.named(there)}, which cannot be read from here "
        f"({location.named(here)}): run both on one host with one result folder, or use results='redis://…'"
    )
