"""The bridge to ``async def`` for greenlets, each test in a process of its own because patching cannot be undone."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

GREENLETS = """
from gevent import monkey; monkey.patch_all()
import asyncio, contextvars, gevent, json, sys, threading, time
from taskstream import aio
from taskstream.aio import Bridge
from taskstream.errors import Interrupt
from taskstream_worker.aio_backend import GeventBackend

bridge = Bridge(GeventBackend())
found = {}
"""


def in_greenlets(program: str) -> dict[str, object]:
    """Run a program under gevent; its ``found``."""
    source = GREENLETS + textwrap.dedent(program) + "\nbridge.close(5)\nprint(json.dumps(found))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result | {"stderr": done.stderr}


def test_greenlets_wait_together_and_the_hub_goes_on() -> None:
    found = in_greenlets("""
        ticks = 0
        def tick():
            global ticks
            while True:
                gevent.sleep(0.005)
                ticks += 1
        ticker = gevent.spawn(tick)
        async def nap(number):
            await asyncio.sleep(0.05)
            return number
        started = time.monotonic()
        def lane(number):
            return [bridge.run(nap(number)) for _ in range(4)]
        lanes = [gevent.spawn(lane, number) for number in range(100)]
        gevent.joinall(lanes)
        found["seconds"] = time.monotonic() - started
        found["right"] = all(lane.value == [number] * 4 for number, lane in enumerate(lanes))
        found["ticks"] = ticks
        ticker.kill()
    """)
    assert found["right"] is True
    assert 0.2 <= found["seconds"] < 4  # type: ignore[operator]  # one after the other: 20 s
    assert found["ticks"] > 5  # type: ignore[operator]


def test_errors_and_contexts_reach_greenlets() -> None:
    found = in_greenlets("""
        variable = contextvars.ContextVar("variable", default="unset")
        async def read():
            await asyncio.sleep(0)
            return variable.get()
        async def fail():
            await asyncio.sleep(0)
            raise LookupError("nothing there")
        def lane(number):
            variable.set(number)
            return [bridge.run(read()) for _ in range(10)]
        lanes = [gevent.spawn(lane, number) for number in range(50)]
        gevent.joinall(lanes)
        found["contexts"] = all(lane.value == [number] * 10 for number, lane in enumerate(lanes))
        try:
            bridge.run(fail())
        except LookupError as error:
            import traceback
            found["frames"] = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    """)
    assert found["contexts"] is True
    assert "fail" in found["frames"]  # type: ignore[operator]


def test_an_interrupt_thrown_into_a_greenlet_cancels_its_coroutine() -> None:
    found = in_greenlets("""
        aio.CANCEL_WAIT_S = 0.3
        class Limit(Interrupt): pass
        ended, stop = [], []
        async def good():
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("good")
        async def stubborn():
            while not stop:
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    ended.append("swallowed")
        def lane(make):
            try:
                bridge.run(make())
            except Limit:
                return time.monotonic()
        lanes = [gevent.spawn(lane, good), gevent.spawn(lane, stubborn), gevent.spawn(lane, good)]
        gevent.sleep(0.1)
        started = time.monotonic()
        def throw():
            for waiting in lanes[:2]:
                waiting.throw(Limit())
        gevent.get_hub().loop.run_callback(throw)
        gevent.joinall(lanes[:2], timeout=20)
        found["good"] = lanes[0].value - started
        found["stubborn"] = lanes[1].value - started
        found["ended"] = list(ended)
        gevent.get_hub().loop.run_callback(lanes[2].throw, Limit())
        lanes[2].join(20)
        found["later"] = lanes[2].value is not None
        stop.append(1)
    """)
    assert found["good"] < 0.3  # type: ignore[operator]
    assert 0.3 <= found["stubborn"] < 10  # type: ignore[operator]
    assert sorted(found["ended"]) == ["good", "swallowed"]  # type: ignore[call-overload]
    assert found["later"] is True


def test_blocking_functions_of_coroutines_run_beside_greenlets() -> None:
    found = in_greenlets("""
        async def work():
            return await asyncio.gather(*(asyncio.to_thread(block, number) for number in range(5)))
        def block(number):
            time.sleep(0.5)
            return number
        started = time.monotonic()
        found["values"] = bridge.run(work())
        found["seconds"] = time.monotonic() - started
    """)
    assert found["values"] == [0, 1, 2, 3, 4]
    assert found["seconds"] < 2  # type: ignore[operator]


def test_native_threads_beside_greenlets_may_call_too() -> None:
    found = in_greenlets("""
        async def double(number):
            await asyncio.sleep(0.001)
            return number * 2
        pool = gevent.get_hub().threadpool
        jobs = [pool.spawn(lambda number=number: bridge.run(double(number))) for number in range(20)]
        lanes = [gevent.spawn(bridge.run, double(number)) for number in range(20)]
        found["threads"] = [job.get() for job in jobs]
        gevent.joinall(lanes)
        found["greenlets"] = [lane.value for lane in lanes]
    """)
    assert found["threads"] == found["greenlets"] == [2 * number for number in range(20)]


def test_closing_under_gevent_ends_waiting_greenlets() -> None:
    found = in_greenlets("""
        async def wait():
            await asyncio.sleep(60)
        def lane():
            try:
                bridge.run(wait())
            except aio.BridgeClosed as error:
                return str(error)
        lanes = [gevent.spawn(lane) for _ in range(3)]
        gevent.sleep(0.05)
        bridge.close(5)
        gevent.joinall(lanes, timeout=10)
        found["errors"] = [lane.value for lane in lanes]
        found["after"] = lane()
    """)
    assert all("closed" in str(error) for error in found["errors"])  # type: ignore[attr-defined]
    assert "closed" in str(found["after"])
