"""An app on a broker in memory, and a worker in the test's own thread that runs what was sent to it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from taskstream.app import registry
from taskstream.app.core import Taskstream
from taskstream.app.outcomes import Outcomes, WorkerList
from taskstream.app.waiter import Waiter
from taskstream.middleware import Middleware, Run
from taskstream.results.base import FINAL_STATES, Outcome, ResultStore
from taskstream.testing import memory, store
from taskstream.testing.running import run_async

MOST = 10_000
"""How many messages one call runs at most: tasks that send one another would go on for ever."""

_numbers = itertools.count(1)


class Steps(Protocol):
    """What runs the messages (taskstream_worker.stepping)."""

    def step(self) -> int:
        """Run what is readable now, one message of each queue; return how many."""

    def next_due_ms(self) -> int | None:
        """In how many ms the next delayed message is due; None without one."""

    def next_tick_ms(self) -> int | None:
        """In how many ms a periodic task is due; None without one."""

    def close(self) -> None:
        """Sign off."""


class StillBusy(AssertionError):
    """So many messages ran, and there are more: something sends or retries itself without end."""


class Worker:
    """Runs, when it is told to, the messages of an app's queues: in this thread, one after the other.

    It has a real worker's rules: arguments are decoded, hooks called, failures retried, workflows carried on, results
    kept. Not here: time limits, and what several workers do at once. ``errors`` has, by id of the message, the
    exception itself with which its last run failed.

    The app should be ``in_memory``; on a real broker only what is readable at once can be run.
    """

    def __init__(self, app: Taskstream, queues: Sequence[str] | None = None) -> None:
        """``queues``: instead of all that the app's tasks name. Raises ConfigError as a worker does at its start."""
        self.app = app
        self.errors: dict[str, BaseException] = {}
        self._queues = queues
        self._worker: Steps | None = None
        self._known: tuple[object, ...] = ()

    def run(self, most: int = MOST) -> int:
        """Run what can be run now, and what that sends; return how many messages that were.

        What is delayed (``countdown``, a retry's backoff) waits. Raises StillBusy after ``most``.
        """
        worker, ran = self._ready(), 0
        while count := worker.step():
            ran += count
            self._check(ran, most)
        return ran

    def drain(self, most: int = MOST) -> int:
        """Run until nothing is left: the clock of the broker is put forward to whatever is due next.

        Periodic tasks are never through: ``advance`` launches those.
        """
        ran = self.run(most)
        while (wait_ms := self._ready().next_due_ms()) is not None:
            ran += self.advance(wait_ms / 1000 + 0.001, most - ran)
            self._check(ran, most)
        return ran

    def run_until(self, done: Callable[[], bool], most: int = MOST) -> None:
        """Run until ``done()``, putting the clock forward only where it has to be; or until nothing is left."""
        ran = 0
        while not done():
            count = self._ready().step()
            if not count:
                wait_ms = self._ready().next_due_ms()
                if wait_ms is None:
                    return
                memory.advance(self.app.broker.url, wait_ms / 1000 + 0.001)
            ran += count
            self._check(ran, most)

    def advance(self, seconds: float, most: int = MOST) -> int:
        """Put the clock of the broker forward, and run what is due then, each at its time; return how many ran.

        Periodic tasks too, from the first tick after this worker first ran something.
        """
        ran, left_ms = self.run(most), seconds * 1000
        while left_ms > 0:
            worker = self._ready()
            waits_ms = [one for one in (worker.next_due_ms(), worker.next_tick_ms()) if one is not None]
            step_ms = min([left_ms, *(one + 1 for one in waits_ms)])
            memory.advance(self.app.broker.url, step_ms / 1000)
            left_ms -= step_ms
            ran += self.run(most - ran)
        return ran

    def close(self) -> None:
        """Sign off."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @staticmethod
    def _check(ran: int, most: int) -> None:
        if ran > most:
            raise StillBusy(f"{ran} messages ran and there are more: does a task send or retry itself without end?")

    def _ready(self) -> Steps:
        """The worker of the tasks there are now: a test may register one at any time."""
        known = tuple(self.app.tasks.values())
        if self._worker is None or known != self._known:
            self.close()
            from taskstream_worker.stepping import SteppingWorker  # gevent, for those who run something

            self.app.bind(run_async, "test")
            subscriptions = self.app.subscriptions(self._queues)
            self._worker = SteppingWorker(
                subscriptions,
                self.app.broker,
                self.app.results,
                f"test-{next(_numbers)}",
                [_Watch(self.errors)],
                self.app.schedules(),
            )
            self._known = known
        return self._worker


class _Watch(Middleware):
    """Remembers failures as they are."""

    def __init__(self, errors: dict[str, BaseException]) -> None:
        self._errors = errors

    def after_run(self, run: Run, value: object, error: BaseException | None) -> None:
        if error is None:
            self._errors.pop(run.delivery.message.id, None)
        else:
            self._errors[run.delivery.message.id] = error


class _Driven(Outcomes):
    """Outcomes that are not waited for but worked for: whoever waits runs what is left."""

    def __init__(self, kept: ResultStore, waiter: Waiter, broker: WorkerList, worker: Worker) -> None:
        super().__init__(kept, waiter, broker)
        self._worker = worker

    def wait(
        self,
        message_id: str,
        queues: Sequence[str],
        timeout: float | None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """The final outcome; None at once where everything that is left has been run without one."""
        if timeout is None or timeout > 0:
            self._worker.run_until(lambda: self._final(message_id) is not None)
        return self._final(message_id)

    def finished(
        self, ids: Sequence[str], queues: Sequence[str], timeout: float | None
    ) -> Generator[Outcome, None, None]:
        """The final outcomes; those there are where everything that is left has been run."""
        if timeout is None or timeout > 0:
            self._worker.run_until(lambda: all(self._final(one) is not None for one in ids))
        for one in ids:
            outcome = self.read(one)
            if outcome is not None and outcome.state in FINAL_STATES:
                yield outcome


@contextlib.contextmanager
def in_memory(app: Taskstream, queues: Sequence[str] | None = None) -> Iterator[Worker]:
    """Let ``app`` use a broker and a result store of its own in memory, and give a worker for it.

    ``get()`` of its results runs what is left, until the outcome is there, instead of waiting. Whatever the app's code
    or the environment say about broker, results and outbox holds again afterwards.
    """
    app.load()
    url = f"memory://test-{next(_numbers)}"
    memory.enable()
    app.close()
    before: Mapping[str, Any] = {name: getattr(app, name) for name in _OVERRIDDEN}
    app.override(url, url)
    app._outbox = None
    worker = Worker(app, queues)
    with _current(app):
        _drive(app, worker)
        try:
            yield worker
        finally:
            worker.close()
            app.close()
            for name, value in before.items():
                setattr(app, name, value)
            memory.forget(url)
            store.forget(url)


_OVERRIDDEN = ("_broker_override", "_results_override", "_outbox", "_run_async", "worker")


def _drive(app: Taskstream, worker: Worker) -> None:
    """Let the app's handles find their outcomes by ``worker``."""
    kept = app.results
    assert kept is not None
    app._waiter = Waiter(app.broker)
    app._outcomes = _Driven(kept, app._waiter, app.broker, worker)


@contextlib.contextmanager
def _current(app: Taskstream) -> Iterator[None]:
    """Shared tasks are the app's as long as this lasts."""
    before = registry.current_app()
    app.set_current()
    try:
        yield
    finally:
        if before is not None:
            before.set_current()
