"""The worker in the test's own thread: a message's life is that of a real worker, and time is put forward."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskstream import Middleware, TaskFailed, Taskstream, chain, chord, group
from taskstream.errors import ConfigError, ResultTimeout, ValidationError
from taskstream.testing import MemoryStore, StillBusy, Worker, eager, in_memory, memory

app = Taskstream("crate", broker="redis://localhost:1")
tries: list[int] = []


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(autoretry_for=(ValueError,), max_retries=2, retry_backoff=60, retry_jitter=False)
def fails(times: int) -> int:
    tries.append(times)
    if len(tries) <= times:
        raise ValueError("not yet")
    return len(tries)


@app.task
def asks(number: int) -> int:
    return add.delay(number, 1).get()


@app.task
async def later(number: int) -> int:
    await asyncio.sleep(0)
    return number


@app.task
def endless() -> None:
    endless.delay()


@pytest.fixture
def worker() -> Iterator[Worker]:
    tries.clear()
    with in_memory(app) as worker:
        yield worker


def test_what_is_sent_runs_when_it_is_told_to(worker: Worker) -> None:
    first, second = add.delay(1, 2), later.delay(3)
    assert (first.state, second.state) == ("PENDING", "PENDING")
    assert worker.run() == 2
    assert (first.get(), second.get()) == (3, 3)
    assert worker.run() == 0
    assert app.broker.group_states("crate")[0].held == 0


def test_get_works_instead_of_waiting(worker: Worker) -> None:
    assert asks.delay(5).get() == 6
    with pytest.raises(ResultTimeout):
        app.AsyncResult("never-sent").get()
    with pytest.raises(ResultTimeout):
        add.delay(1, 1).get(timeout=0)


def test_arguments_are_checked_before_anything_is_sent(worker: Worker) -> None:
    with pytest.raises(ValidationError, match="b: Not a valid integer"):
        add.delay(1, "2")  # type: ignore[arg-type]
    assert worker.run() == 0


def test_retries_take_their_time_and_end(worker: Worker) -> None:
    result = fails.delay(5)
    assert worker.run() == 1
    assert result.state == "RETRY"
    assert (worker.advance(59), worker.advance(2)) == (0, 1)
    assert worker.drain() == 1
    assert len(tries) == 3
    assert str(worker.errors[result.id]) == "not yet"
    with pytest.raises(TaskFailed, match="ValueError: not yet"):
        result.get()
    assert app.broker.group_states("crate")[0].dead == 1
    tries.clear()
    again = fails.delay(1)
    assert again.get() == 2
    assert again.id not in worker.errors


def test_delays_end_in_their_order(worker: Worker) -> None:
    order: list[str] = []

    class Order(Middleware):
        def after_run(self, run: Any, value: object, error: BaseException | None) -> None:
            order.append(str(value))

    other = Taskstream("other", middleware=[Order()])
    other.task(_echo, name="other.echo")
    with in_memory(other) as second:
        echo = other.tasks["other.echo"]
        for word, seconds in (("last", 7200), ("first", None), ("second", 60)):
            echo.apply_async((word,), **({} if seconds is None else {"countdown": seconds}))
        echo.apply_async(("too late",), countdown=100, expires=50)
        assert second.drain() == 4
    assert order == ["first", "second", "last"]


def _echo(word: str) -> str:
    return word


@pytest.mark.parametrize("start", ["chain", "group", "chord"])
def test_workflows_are_carried_on(worker: Worker, start: str) -> None:
    flows: dict[str, tuple[Any, Any]] = {
        "chain": (chain(add.s(1, 2), add.s(10)), 13),
        "group": (group(add.s(n, n) for n in range(3)), [0, 2, 4]),
        "chord": (chord([add.s(n, n) for n in range(3)], total.s()), 6),
    }
    flow, expected = flows[start]
    assert flow.delay().get() == expected


def test_periodic_tasks_come_with_the_time() -> None:
    mine = Taskstream("mine")
    came: list[int] = []

    @mine.periodic(every=60)
    @mine.task
    def tick() -> None:
        came.append(1)

    with in_memory(mine) as worker:
        worker.run()
        worker.advance(180)
        assert len(came) == 3
        assert worker.drain() == 0


def test_limits_hold() -> None:
    mine = Taskstream("mine")
    mine.task(_echo, name="mine.echo", rate_limit="1/m", max_concurrency=1)
    with in_memory(mine) as worker:
        results = [mine.tasks["mine.echo"].delay(word) for word in "abc"]
        worker.run()
        assert [one.state for one in results] == ["SUCCESS", "PENDING", "PENDING"]
        worker.advance(61)
        assert [one.state for one in results] == ["SUCCESS", "SUCCESS", "PENDING"]
        assert results[2].get() == "c"


def test_what_is_revoked_does_not_run(worker: Worker) -> None:
    first, second = add.delay(1, 1), add.delay(2, 2)
    first.revoke()
    worker.run()
    assert (first.state, second.state) == ("REVOKED", "SUCCESS")


def test_many_are_sent_and_run(worker: Worker) -> None:
    results = app.enqueue_many(add.s(number, 1) for number in range(30))
    assert worker.run() == 30
    assert [result.get() for result in results] == list(range(1, 31))


def test_what_has_no_end_is_told(worker: Worker) -> None:
    endless.delay()
    with pytest.raises(StillBusy, match="51 messages ran"):
        worker.run(most=50)


def test_a_task_of_the_test_s_own_is_run_too(worker: Worker) -> None:
    local = Taskstream("local")
    with in_memory(local) as second:
        local.task(_echo, name="local.one")
        assert local.tasks["local.one"].delay("a").get() == "a"
        local.task(_echo, name="local.two")
        assert local.tasks["local.two"].delay("b").get() == "b"
        assert second.run() == 0


def test_a_test_on_an_event_loop_may_use_it(worker: Worker) -> None:
    async def run() -> int:
        return later.delay(4).get()

    assert asyncio.run(run()) == 4


def test_everything_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSTREAM_BROKER", "redis://localhost:2/0")
    mine = Taskstream("mine", broker="redis://localhost:1", results=(kept := MemoryStore("memory://mine")))
    newest = Taskstream("newest")
    with in_memory(mine):
        assert mine.broker.url.startswith("memory://")
        assert mine.results is not None and mine.results.url == mine.broker.url
    assert mine.broker.url == "redis://localhost:2/0"
    assert mine.results is not None and mine.results.url == kept.url
    from taskstream.app.registry import current_app

    assert current_app() is newest


def test_two_tests_share_nothing() -> None:
    for _ in range(2):
        with in_memory(app) as worker:
            add.apply_async((1, 1), task_id="same")
            assert worker.run() == 1
            assert app.AsyncResult("same").get() == 2


def test_eager_runs_before_the_call_returns() -> None:
    tries.clear()
    with eager(app) as worker:
        assert add.delay(1, 2).state == "SUCCESS"
        assert fails.delay(2).get() == 3
        assert asks.delay(2).get() == 3
        assert [one.state for one in app.enqueue_many([add.s(1, 1)])] == ["SUCCESS"]
        result = fails.delay(99)
        assert result.state == "FAILURE" and result.id in worker.errors
        assert add.apply_async((1, 2), countdown=10**6).get(timeout=0) == 3
        with pytest.raises(ValidationError):
            add.delay("x", 2)  # type: ignore[arg-type]
    assert "send" not in vars(app)


def test_eager_may_raise_what_was_raised() -> None:
    tries.clear()
    with eager(app, propagate=True):
        with pytest.raises(ValueError, match="not yet"):
            fails.delay(99)
        with pytest.raises(ValueError, match="not yet"):
            chain(add.s(1, 98), fails.s()).delay()
        assert add.delay(1, 1).get() == 2


def test_the_clock_of_a_server_is_let_be() -> None:
    with pytest.raises(ConfigError, match="is a server's"):
        memory.advance("redis://localhost:1", 5)


def test_production_never_loads_it() -> None:
    code = (
        "import sys, taskstream.cli.main, taskstream.cli.worker, taskstream_worker.process, taskstream_webapp\n"
        "from taskstream import Taskstream\n"
        "try: Taskstream('x', broker='memory://')\n"
        "except Exception as error: print(error)\n"
        "assert not [name for name in sys.modules if name.startswith(('taskstream.testing', 'fakeredis', 'pytest'))]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert "it is for tests: import taskstream.testing" in done.stdout
