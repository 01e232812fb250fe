"""An app of tasks for tests of workers, written into a folder and run there by real pools."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from helpers import Started, eventually

from taskstream.broker import Broker, Envelope, GroupState
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, encode_json, new_id
from taskstream.results import open_store
from taskstream.results.base import FINAL_STATES, Outcome

MODULE = """
import asyncio
import contextvars
import os
import re
import signal
import sys
import time
from pathlib import Path

import gevent

from taskstream import Taskstream

HERE = Path(__file__).parent
app = Taskstream("jobs", results="json://results")


def note(*words):
    with open(HERE / "runs", "a") as file:
        file.write(" ".join(map(str, (*words, os.getpid()))) + "\\n")


def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.01)


@app.task
def add(a: int, b: int) -> int:
    note("add", a, b)
    return a + b


@app.task
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


@app.task(autoretry_for=(ValueError,), retry_backoff=0.05)
def flaky(key: str) -> str:
    note("flaky", key)
    if not (HERE / f"failed-{key}").exists():
        (HERE / f"failed-{key}").touch()
        raise ValueError(f"first time of {key}")
    return key


@app.task(autoretry_for=(ValueError,), max_retries=2, retry_backoff=0.01)
def broken(key: str) -> None:
    note("broken", key)
    raise ValueError(f"ü {key}")


@app.task
def slow(key: str) -> str:
    note("start", key)
    try:
        wait_for(f"go-{key}")
    except BaseException:
        note("interrupted", key)
        raise
    note("end", key)
    return key


@app.task
async def slow_later(key: str) -> str:
    note("start", key)
    while not (HERE / f"go-{key}").exists():
        await asyncio.sleep(0.01)
    return key


@app.task
def stubborn(key: str) -> str:
    note("start", key)
    while True:
        try:
            wait_for(f"go-{key}")
            return key
        except BaseException:
            note("swallowed", key)


@app.task(autoretry_for=(ValueError,), max_retries=1, retry_backoff=0.01)
def late_failure(key: str) -> None:
    note("late_failure", key)
    while (HERE / "hold").exists():
        time.sleep(0.01)
    raise ValueError(key)


@app.task
def hog(seconds: float) -> None:
    note("hog")
    # One call of C code that never lets go of the interpreter: backtracking doubles with each letter.
    until = time.monotonic() + seconds
    length = 18
    while time.monotonic() < until:
        started = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.monotonic() - started < seconds / 4:
            length += 1


@app.task(timeout=0.2)
def endless() -> None:
    try:
        time.sleep(60)
    except Exception:
        note("swallowed")


@app.task(timeout=0.2)
async def endless_later() -> None:
    await asyncio.sleep(60)


class Nasty(Exception):
    def __str__(self):
        raise RuntimeError("no text")


FAILURES = {
    "exit": SystemExit(3),
    "base": BaseException("base"),
    "interrupt": KeyboardInterrupt(),
    "killed": gevent.GreenletExit(),
    "nasty": Nasty(),
    "surrogate": ValueError("\\ud800"),
    "generator": GeneratorExit(),
    "syntax": SyntaxError("m", ("file", 1, "abc", "text")),
}


@app.task
def fails(how: str) -> None:
    note("fails", how)
    raise FAILURES[how]


@app.task
def leaves() -> None:
    sys.exit()


VARIABLE = contextvars.ContextVar("VARIABLE", default=None)


@app.task
def context(value: str) -> str | None:
    before = VARIABLE.get()
    VARIABLE.set(value)
    time.sleep(0)
    return before


@app.task
def unfit() -> object:
    return {object()}


@app.task(ignore_result=True)
def silent() -> int:
    return 5


@app.task
def leaves_a_timeout() -> None:
    gevent.Timeout(0.1).start()


@app.task(max_deliveries=2)
def dies_after() -> None:
    note("dies_after")
    os.closerange(3, 200)


@app.task(max_deliveries=2)
def poison() -> None:
    note("poison")
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Jobs:
    """The app in ``folder``: sends to it, looks at what ran and what came of it."""

    def __init__(self, folder: Path, url: str, start: Callable[..., Started], results: str = "json://results") -> None:
        self.folder = folder
        self.url = url
        self.broker = Broker(url)
        self.results = results
        self._start = start
        (folder / "jobs.py").write_text(MODULE, encoding="utf-8")

    def pool(self, *options: str, lease: float = 1, processes: int = 1, concurrency: int = 10) -> Started:
        """Start a pool; it may not be ready yet."""
        numbers = ("--lease", str(lease), "--processes", str(processes), "--concurrency", str(concurrency))
        return self._start(
            *("worker", "-A", "jobs:app", "--broker", self.url, *numbers, *options),
            cwd=self.folder,
            env={"TASKSTREAM_RESULTS": self.results, "PYTHONWARNINGS": "error"},
        )

    def send(self, task: str, *arguments: object, **more: Any) -> str:
        """Send a call; return its message's id."""
        message = Message(new_id(), f"jobs.{task}", encode_json({"args": list(arguments)}), **more)
        self.broker.send(Envelope("jobs", message))
        return message.id

    def go(self, *keys: str) -> None:
        """Let ``slow`` calls end."""
        for key in keys:
            (self.folder / f"go-{key}").touch()

    def runs(self, *words: str) -> list[int]:
        """Process ids, in order, of what noted ``words``."""
        try:
            lines = (self.folder / "runs").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [int(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == " ".join(words)]

    def found(self, message_id: str) -> Outcome | None:
        """The outcome as it is on disk now."""
        store = open_store(self.results, base=self.folder)
        assert store is not None
        try:
            outcomes = store.read(message_id)
        finally:
            store.close()
        assert len(outcomes) <= 1
        return outcomes[0] if outcomes else None

    def outcome(self, message_id: str, timeout: float = 20.0) -> Outcome:
        """The final outcome, as soon as it is there."""

        def final() -> Outcome | None:
            found = self.found(message_id)
            return found if found is not None and found.state in FINAL_STATES else None

        outcome = eventually(final, timeout, f"no final outcome of {message_id}")
        assert outcome is not None
        return outcome

    @property
    def state(self) -> GroupState:
        """The queue as it is now."""
        return self.broker.group_states("jobs")[0]

    def settled(self, *, waiting: int = 0, delayed: int = 0, dead: int = 0) -> None:
        """Wait until nothing is held, and the rest is where it should be."""
        wanted = (waiting, 0, delayed, dead)

        def now() -> tuple[int, int, int, int]:
            state = self.state
            return state.waiting, state.held, state.delayed, state.dead

        eventually(lambda: now() == wanted, message=f"not {wanted}")

    def letters(self) -> dict[bytes, bytes]:
        """The dead letters by message id."""
        found: dict[bytes, bytes] = self.broker.client.hgetall(f"ts:{{jobs}}:letters:{QUEUE_GROUP}")  # type: ignore[assignment]
        return found

    def running(self, count: int = 1) -> list[dict[str, Any]]:
        """The live workers, as soon as there are ``count`` and each has begun to read."""

        def begun() -> list[dict[str, Any]]:
            workers = self.broker.workers()
            ready = len(workers) == count and not any(worker["state"] == "starting" for worker in workers)
            return workers if ready else []

        return eventually(begun, 20, f"not {count} workers")


def worker_processes(pool: Started) -> list[int]:
    """Process ids of the pool's worker processes."""
    found = []
    for child in psutil.Process(pool.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a dead one has no command line
            if "taskstream_worker.child" in child.cmdline():
                found.append(child.pid)
    return found


def kill(pid: int, number: int) -> None:
    """Send a signal to one of our own."""
    os.kill(pid, number)
