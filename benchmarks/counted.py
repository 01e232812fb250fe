"""What `instructions.py` counts the instructions of: the paths of a producer, a worker and the web app.

Run by it under callgrind, with the library made of counting.c at COUNTING_LIBRARY. It measures and judges nothing.
"""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from taskstream import Taskstream
from taskstream.dataobjects import validator_for
from taskstream.results import open_store

PIECE = 100
WARM_UP = PIECE
"""How often a path is gone before it counts: caches are full then, and Python has specialised what it can."""

TIMES = 2 * PIECE
MESSAGES = 5 * PIECE
"""A worker does more beside than what each message takes."""

REFERENCE = "reference"
TEXT = "hello world"

app = Taskstream("counted")
_library: list[ctypes.CDLL] = []


def _counter() -> ctypes.CDLL:
    if not _library:
        _library.append(ctypes.CDLL(os.environ["COUNTING_LIBRARY"]))
    return _library[0]


@app.task
def noop(id: int, text: str) -> int:
    """What is sent and run."""
    return id


@dataclass
class Line:
    """A part of the payload below."""

    article: str
    amount: int
    price: float = 0.0


@dataclass
class Order:
    """A payload as events have it."""

    number: int
    customer: str
    express: bool
    lines: list[Line] = field(default_factory=list)
    note: str | None = None


ORDER = (
    b'{"number":4711,"customer":"Ada","express":true,'
    b'"lines":[{"article":"a-1","amount":2},{"article":"b-7","amount":1}]}'
)


def count(name: str, times: int, run: Callable[[int], object]) -> None:
    """Count ``times`` calls of ``run(number)``."""
    for number in range(WARM_UP):
        run(number)
    counter = _counter()
    counter.begin_count()
    for number in range(times):
        run(number)
    counter.end_count(f"{name} / {times}".encode())


def reference(number: int) -> object:
    """Nothing of ours: says what this build of Python makes of the same work."""
    found = {str(key): [key, key * 2] for key in range(20)}
    return sorted(found, key=len), "".join(found), sum(value[1] for value in found.values()) + number


def poster() -> Callable[[int], object]:
    """A POST of a call through the WSGI callable, its message published."""
    from taskstream_webapp import create_app

    web = create_app(tasks_app=app)
    body = b'{"kwargs":{"id":123,"text":"hello world"}}'
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/api/tasks/counted.noop",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8021",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:8021",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    answers: list[str] = []

    def begin(status: str, headers: object, problem: object = None, /) -> Callable[[bytes], object]:
        answers.append(status)
        return str

    def post(number: int) -> None:
        answers.clear()
        b"".join(web({**environ, "wsgi.input": io.BytesIO(body)}, begin))
        assert answers[0].startswith("202"), answers

    return post


def many(number: int) -> None:
    """Every hundredth time a hundred messages are sent."""
    if number % PIECE == 0:
        app.enqueue_many(noop.s(id=one, text=TEXT) for one in range(PIECE))


def worker(results: str | None) -> Callable[[int], object]:
    """A worker's way with one message, taken step by step a hundred at a time: read, run, keep, commit.

    What a process has around it (greenlets, threads, timers) is left out: how much of that there is depends on the
    machine.
    """
    from taskstream_worker.stepping import SteppingWorker

    store = open_store(results, base=Path.cwd(), retention=60.0, fsync="checkpoint")
    app.enqueue_many(noop.s(id=one, text=TEXT) for one in range(MESSAGES + WARM_UP))
    steps = SteppingWorker(app.subscriptions(), app.broker, store, "counted", at_once=PIECE)

    def run(number: int) -> None:
        if number % PIECE == 0:
            assert steps.step() == PIECE

    return run


def decoder() -> Callable[[int], object]:
    """An event's payload, read and checked."""
    load = validator_for(Order).load_json
    return lambda number: load(ORDER)


PATHS: dict[str, tuple[int, Callable[[], Callable[[int], object]]]] = {
    REFERENCE: (TIMES, lambda: reference),
    "delay()": (TIMES, lambda: lambda number: noop.delay(id=number, text=TEXT)),
    "enqueue_many, one of a hundred": (TIMES, lambda: many),
    "worker, no results": (MESSAGES, lambda: worker(None)),
    "worker, results on disk": (MESSAGES, lambda: worker("file://results")),
    "decode an event's payload": (TIMES, decoder),
    "POST a call": (60, poster),
}
"""How often each path is counted, and what makes it."""


def main() -> None:
    """Count them all."""
    for name, (times, make) in PATHS.items():
        path = make()
        count(name, times, path)
        app.broker.client.flushdb()


if __name__ == "__main__":
    main()
