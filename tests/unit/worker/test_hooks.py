"""Hooks around runs: the executor with a fake table and acker, every end a run can have."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest

from taskstream.broker.group import Entry
from taskstream.errors import Postpone, Refuse, Shutdown, WorkerDied
from taskstream.handler import Handler, Settings
from taskstream.message import Delivery, Message, from_fields_json
from taskstream.middleware import RETRIES, Middleware, Run
from taskstream_worker import intake
from taskstream_worker.executor import Executor
from taskstream_worker.membership import Job, Membership

TRACE: contextvars.ContextVar[str] = contextvars.ContextVar("TRACE", default="none")


class Hook(Middleware):
    """Notes every call; ``before`` may raise."""

    def __init__(self, before: Callable[[Run], None] = lambda run: None, *, loud: bool = False) -> None:
        self.loud = loud
        self.said: list[tuple[Any, ...]] = []
        self._before = before

    def before_run(self, run: Run) -> None:
        run.notes["begun"] = True
        TRACE.set("set by a hook")
        self._before(run)

    def after_run(self, run: Run, value: object, error: BaseException | None) -> None:
        assert run.notes["begun"]
        self.said.append(("after", value, repr(error)))

    def on_retry(self, run: Run, error: BaseException, delay: float) -> None:
        self.said.append(("retry", repr(error), delay))

    def on_failure(self, run: Run, error: BaseException) -> None:
        self.said.append(("failure", repr(error)))


class Table:
    """What is marked as started, and with which limit."""

    def __init__(self) -> None:
        self.started: list[tuple[str, float]] = []

    def start(self, slot: int, membership: int, message_id: str, deadline: float = 0.0, limit: float = 0.0) -> None:
        self.started.append((message_id, limit))

    def end(self, slot: int) -> None: ...

    def finish(self, slot: int) -> None: ...


class World:
    """An executor with one lane; ``run`` gives the decided job."""

    def __init__(self) -> None:
        self.table = Table()
        self.done: list[Job] = []
        self.counted: list[str] = []
        self.executor = Executor(1, "w", cast(Any, self.table), True, None, lambda: None)
        self.executor.start()
        stats = SimpleNamespace(count=lambda move, elapsed: self.counted.append(move))
        self.consumer = cast(
            Any,
            SimpleNamespace(
                stats=stats, release_slot=lambda: None, acker=SimpleNamespace(put=self.done.append), revoked={}
            ),
        )
        self.membership = Membership(self.consumer, cast(Any, None), 0, 1e12)

    def run(self, handle: Callable[[Delivery], object], *middleware: Middleware, **settings: Any) -> Job:
        chosen = {"max_retries": 0, **settings}
        handler = Handler("a.h", handle, "a", "-", logging.DEBUG, Settings(**chosen), middleware=(*middleware, RETRIES))
        delivery = Delivery(Message("m1", "h", b"{}", attempt=2, deliveries=4), "s", "g", "1-1", 5)
        self.executor.put(Job(self.membership, delivery, handler))
        with gevent.Timeout(20):
            while not self.done:
                gevent.sleep(0.001)
        return self.done.pop()


@pytest.fixture
def world() -> World:
    return World()


def fails(delivery: Delivery) -> object:
    raise ValueError("x")


def raises(error: BaseException) -> Callable[[Run], None]:
    def raise_it(run: Run) -> None:
        raise error

    return raise_it


def test_a_success_is_told_in_the_context_of_the_run(world: World) -> None:
    hook = Hook()
    job = world.run(lambda delivery: TRACE.get(), hook)
    assert job.move == "a" and hook.said == [("after", "set by a hook", "None")]
    # and nothing of it is left for the next
    outcome = world.run(lambda delivery: TRACE.get()).outcome
    assert outcome is not None and bytes(outcome.value) == b'"none"'


def test_a_retry_and_a_failure_are_told(world: World) -> None:
    hook = Hook()
    assert world.run(fails, hook, max_retries=5, retry_backoff=1.5, retry_jitter=False).move == "r"
    assert hook.said == [("after", None, "ValueError('x')"), ("retry", "ValueError('x')", 3.0)]
    hook.said.clear()
    assert world.run(fails, hook).move == "d"
    assert hook.said == [("after", None, "ValueError('x')"), ("failure", "ValueError('x')")]


def test_what_is_interrupted_and_given_back_is_no_failure(world: World) -> None:
    def stop(delivery: Delivery) -> object:
        raise Shutdown("stops")

    hook = Hook()
    assert world.run(stop, hook).move == "g"
    assert hook.said == [("after", None, "Shutdown('stops')")]


def test_a_hook_decides_the_delay(world: World) -> None:
    class Slowly(Middleware):
        def retry_delay(self, run: Run, error: BaseException) -> float | None:
            return 60.0

    assert world.run(fails, Slowly()).delay_ms == 60_000


def test_postponed_it_does_not_run_and_counts_as_no_attempt(world: World) -> None:
    hook, ran = Hook(raises(Postpone(1.2345))), []
    job = world.run(ran.append, hook)
    assert (job.move, job.delay_ms, job.outcome) == ("r", 1235, None)
    again = from_fields_json(job.payload)
    assert (again.attempt, again.deliveries) == (2, 4)
    assert ran == [] and hook.said == [] and world.counted == [] and world.executor.ran == 0


def test_refused_it_ends_as_revoked_and_is_no_dead_letter(world: World) -> None:
    hook, ran = Hook(raises(Refuse("too late"))), []
    job = world.run(ran.append, hook)
    assert job.move == "a" and job.outcome is not None and job.outcome.error is not None
    assert (job.outcome.state, job.outcome.error.type, job.outcome.error.message) == ("REVOKED", "Refuse", "too late")
    assert ran == [] and hook.said == [] and world.executor.ran == 0


def test_a_hook_that_breaks_stops_no_run(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Middleware):
        def after_run(self, run: Run, value: object, error: BaseException | None) -> None:
            raise RuntimeError("after it")

    assert world.run(lambda delivery: 1, Hook(raises(RuntimeError("before it"))), Broken()).move == "a"
    assert "Hook.before_run" in caplog.text and "Broken.after_run" in caplog.text


def test_what_a_loud_hook_raises_is_the_runs_failure(world: World) -> None:
    hook, ran = Hook(raises(LookupError("no key")), loud=True), []
    job = world.run(ran.append, hook)
    assert job.move == "d" and ran == []
    assert hook.said == [("after", None, "LookupError('no key')"), ("failure", "LookupError('no key')")]


def test_an_interrupt_inside_a_hook_gives_the_message_back(world: World) -> None:
    assert world.run(lambda delivery: 1, Hook(raises(Shutdown("stops")))).move == "g"


def test_what_became_another_workers_while_a_hook_waited_does_not_run(world: World) -> None:
    # Given a hook that waits until the lease is lost
    def lose(run: Run) -> None:
        world.membership.lost = True

    hook, ran, freed = Hook(lose), [], []
    world.consumer.release_slot = lambda: freed.append(1)
    handler = Handler("a.h", ran.append, "a", "-", 10, Settings(), middleware=(hook, RETRIES))
    delivery = Delivery(Message("m1", "h", b"{}"), "s", "g", "1-1", 1)
    # When the hook lets it go on
    world.executor.put(Job(world.membership, delivery, handler))
    with gevent.Timeout(20):
        while not freed:
            gevent.sleep(0.001)
    # Then it does not run, nothing is decided about it, and its place is free
    assert ran == [] and hook.said == [] and world.done == []
    assert world.executor.running == 0 and len(freed) == 1


def test_after_a_hook_that_waited_a_run_waits_for_a_lease_that_is_unsure(world: World) -> None:
    def sleep(run: Run) -> None:
        world.membership.deadline = 0.0
        gevent.spawn_later(0.05, setattr, world.membership, "deadline", 1e12)

    sure: list[bool] = []
    job = world.run(lambda delivery: sure.append(world.membership.deadline > 0), Hook(sleep))
    assert job.move == "a" and sure == [True]


def test_revoked_or_too_late_while_a_hook_waited_it_does_not_run(world: World) -> None:
    world.consumer.around = SimpleNamespace(worker="w", keep_results=True, clock=SimpleNamespace(now_ms=lambda: 1000))

    def expire(run: Run) -> None:
        lane = next(lane for lane in world.executor.running_jobs())
        lane.expires_ms = 1000

    ran: list[Delivery] = []
    for hook, kind in (
        (Hook(expire), "Expired"),
        (Hook(lambda run: world.consumer.revoked.update(m1=False)), "Revoked"),
    ):
        job = world.run(ran.append, hook)
        assert job.move == "a" and job.outcome is not None and job.outcome.error is not None
        assert (job.outcome.state, job.outcome.error.type) == ("REVOKED", kind)
        assert hook.said == []
    assert ran == [] and world.executor.ran == 0


def test_time_limits_begin_after_the_hooks(world: World) -> None:
    world.run(lambda delivery: 1, Hook(lambda run: gevent.sleep(0.3)), timeout=0.1, hard_timeout=5.0)
    # The message is marked from the start, so that a death in a hook is blamed on it, but it is not limited yet.
    assert world.table.started == [("m1", 0.0), ("m1", 5.0)]
    assert world.run(lambda delivery: 1, timeout=0.1).move == "a"


def test_a_message_that_dies_without_a_run_is_told(world: World) -> None:
    # Given one whose processes died, and one whose process was ended for its hard_timeout
    hook = Hook()
    handler = Handler("a.h", lambda delivery: None, "a", "-", 10, Settings(max_retries=0), middleware=(hook, RETRIES))
    world.consumer.subscription = SimpleNamespace(stream="s", group="g", handler_for=lambda name: handler)
    log = logging.getLogger("test")
    world.consumer.around = SimpleNamespace(
        slots=None, queue=None, worker="w", keep_results=False, log=SimpleNamespace(error=log.error)
    )
    world.consumer.fields = dict
    fields = [b"v", b"1", b"id", b"m1", b"name", b"h", b"body", b"{}"]
    # When they are read
    intake.accept(
        world.consumer,
        world.membership,
        [Entry(False, "1-1", fields, deaths=3), Entry(False, "1-2", fields, why="late")],
    )
    # Then both are dead letters, and the hook has heard of them
    assert [job.move for job in world.done] == ["d", "d"]
    assert hook.said == [
        ("failure", repr(WorkerDied("3 worker processes died while it ran"))),
        ("failure", "TimeLimitExceeded('late')"),
    ]
