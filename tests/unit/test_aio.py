"""The bridge to ``async def`` for threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
from helpers import eventually

from taskstream import aio
from taskstream.aio import Bridge, BridgeClosed, CoroutineCancelled, threading_backend
from taskstream.errors import Interrupt


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    made = Bridge(threading_backend())
    yield made
    made.close(5)


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_many_threads_share_one_loop(bridge: Bridge) -> None:
    async def where() -> int:
        await asyncio.sleep(0.001)
        return threading.get_native_id()

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(lambda number: bridge.run(double(number)), range(500))) == list(range(0, 1000, 2))
        found = set(threads.map(lambda _: bridge.run(where()), range(50)))
    assert len(found) == 1
    assert found != {threading.get_native_id()}


def test_waiting_coroutines_run_at_the_same_time(bridge: Bridge) -> None:
    meeting = threading.Barrier(10)

    async def meet() -> None:
        await asyncio.to_thread(meeting.wait, 20)

    with ThreadPoolExecutor(10) as threads:
        for done in [threads.submit(bridge.run, meet()) for _ in range(10)]:
            done.result(30)


def test_an_exception_keeps_its_traceback(bridge: Bridge) -> None:
    async def deep_inside() -> None:
        await asyncio.sleep(0)
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there") as raised:
        bridge.run(deep_inside())
    assert "deep_inside" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


def test_finished_work_is_not_kept_alive(bridge: Bridge) -> None:
    class Heavy(Exception):
        pass

    async def fail() -> None:
        raise Heavy

    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(Heavy):
                bridge.run(fail())
        assert eventually(lambda: not bridge._running)
    finally:
        gc.enable()
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, Heavy)]


def test_exit_in_a_coroutine_is_the_caller_s(bridge: Bridge) -> None:
    async def leave() -> None:
        sys.exit(3)

    with pytest.raises(SystemExit):
        bridge.run(leave())
    assert bridge.run(double(1)) == 2


def test_a_coroutine_that_cancels_itself_is_an_ordinary_error(bridge: Bridge) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CoroutineCancelled, match="give_up"):
        bridge.run(give_up())


def test_the_caller_s_context_is_visible(bridge: Bridge) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def read() -> str:
        found = variable.get("unset")
        variable.set("changed inside")
        return found

    variable.set("request 7")
    assert bridge.run(read()) == "request 7"
    assert variable.get() == "request 7"
    assert contextvars.Context().run(bridge.run, read()) == "unset"


def test_blocking_the_loop_on_itself_is_refused(bridge: Bridge) -> None:
    async def outer() -> int:
        return bridge.run(double(1))

    with pytest.raises(RuntimeError, match="await it instead"):
        bridge.run(outer())


class _Alarm(Interrupt):
    pass


@pytest.fixture
def interrupt_after() -> Iterator[Callable[[float], None]]:
    """Interrupt the main thread after some seconds, as a signal handler does."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupted_caller_cancels_its_coroutine(bridge: Bridge, interrupt_after: Callable[[float], None]) -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            seen.append("cleaned up")

    interrupt_after(0.1)
    with pytest.raises(_Alarm):
        bridge.run(work())
    assert seen == ["cleaned up"]


def test_a_coroutine_that_swallows_cancellation_is_abandoned(
    bridge: Bridge,
    interrupt_after: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(aio, "CANCEL_WAIT_S", 0.1)
    stop = threading.Event()

    async def stubborn() -> None:
        while not stop.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    interrupt_after(0.1)
    started = time.monotonic()
    with pytest.raises(_Alarm):
        bridge.run(stubborn())
    assert time.monotonic() - started < 5
    assert "stubborn" in caplog.text
    assert "left to itself" in caplog.text
    assert bridge.run(double(2)) == 4
    stop.set()
    eventually(lambda: not bridge._running)


def test_close_cancels_what_runs_and_refuses_what_comes(bridge: Bridge) -> None:
    started = threading.Event()

    async def work() -> None:
        started.set()
        await asyncio.sleep(60)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bridge.run, work())
        assert started.wait(10)
        bridge.close(5)
        with pytest.raises(BridgeClosed, match="closed"):
            waiting.result(10)
    with pytest.raises(BridgeClosed, match="closed"):
        bridge.run(double(1))
    bridge.close(5)


def test_an_unused_bridge_starts_no_thread_and_can_be_closed() -> None:
    before = threading.active_count()
    bridge = Bridge(threading_backend())
    bridge.close(1)
    assert threading.active_count() == before
    with pytest.raises(BridgeClosed):
        bridge.run(double(1))


def test_close_returns_although_a_coroutine_blocks_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge(threading_backend())
    release = threading.Event()

    async def block() -> None:
        release.wait(30)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bridge.run, block())
        eventually(lambda: bridge._running)
        started = time.monotonic()
        bridge.close(0.2)
        assert time.monotonic() - started < 5
        assert "did not end within" in caplog.text
        release.set()
        assert waiting.result(10) is None


def test_a_loop_that_cannot_start_is_an_error_for_every_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(aio, "_new_loop", broken)
    bridge = Bridge(threading_backend())
    for _ in range(3):
        with pytest.raises(BridgeClosed, match="too many open files"):
            bridge.run(double(1))
    bridge.close(1)


def test_a_caller_that_waits_while_the_loop_fails_to_start_gets_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(threading_backend())

    def broken(*_: object) -> None:
        eventually(lambda: bridge._inbox)
        time.sleep(0.05)  # it waits by now; were it only about to, the error would be the same
        raise OSError("too many open files")

    monkeypatch.setattr(aio, "_new_loop", broken)
    with pytest.raises(BridgeClosed, match="too many open files"):
        bridge.run(double(1))


def test_callers_get_an_error_when_the_loop_s_thread_dies(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    async def wait() -> None:
        await asyncio.sleep(60)

    class Dead(BaseException):
        pass

    def die() -> None:
        raise Dead("out of memory")

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bridge.run, wait())
        eventually(lambda: bridge._running)
        loop = bridge._loop
        assert loop is not None
        original = loop.run_forever
        loop.run_forever = die  # type: ignore[method-assign]
        loop.call_soon_threadsafe(loop.stop)
        with pytest.raises(BridgeClosed, match="out of memory"):
            waiting.result(10)
        loop.run_forever = original  # type: ignore[method-assign]
    with pytest.raises(BridgeClosed, match="out of memory"):
        bridge.run(double(1))
    assert "the event loop for async functions ended" in caplog.text


def test_a_coroutine_that_stops_the_loop_stops_nobody(bridge: Bridge) -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()

    bridge.run(stop())
    assert bridge.run(double(3)) == 6


def test_functions_in_threads_return_raise_and_run_side_by_side(bridge: Bridge) -> None:
    def stop_iteration() -> None:
        raise StopIteration("odd")

    async def work() -> list[object]:
        return await asyncio.gather(
            *(asyncio.to_thread(lambda number=number: number * number) for number in range(100)),
            asyncio.to_thread(stop_iteration),
            asyncio.to_thread(int, "x"),
            return_exceptions=True,
        )

    found = bridge.run(work())
    assert found[:100] == [number * number for number in range(100)]
    assert isinstance(found[100], RuntimeError)
    assert isinstance(found[101], ValueError)
