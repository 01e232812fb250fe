"""The apps that benchmarks run: STREAM events that do nothing or save a file, a queue of tasks, and what fills them.

As texts and documents for harness.app_folder; nothing of them runs here, but for the queue's app where a producer is
needed (``producer``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import redis

from benchmarks.harness import Drained, app_folder, drained, pool
from taskstream import keys
from taskstream.broker import Broker
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, encode_json, new_id

Files = dict[str, str | dict[str, object]]

STREAM = "bench-stream"
GROUP = "bench-group"
CONFIG_FILES = "--config-files=server.json,config.json"
READING = b'{"sensor":"north-3","value":42}'

_DATA = """
from taskstream.dataobjects import dataobject


@dataobject
class Reading:
    sensor: str
    value: int
"""
_EVENT = """
from taskstream.app.context import EventContext

from .data import Reading

__steps__ = ["run"]


{define} run(reading: Reading, context: EventContext) -> None:
    return None
"""
_SAVE = """
from taskstream.app.context import EventContext
from taskstream.message import new_id
from taskstream.toolkit.storage.fs import FileStorage

from .data import Reading

__steps__ = ["run"]

output = FileStorage(path="saved")


async def run(reading: Reading, context: EventContext) -> None:
    await output.store(key=new_id(), value=reading)
"""
EVENTS = {
    "noop-def": _EVENT.format(define="def"),
    "noop-async": _EVENT.format(define="async def"),
    "save-file": _SAVE,
}

QUEUE = "bench"
ARGUMENTS: dict[str, object] = {"id": 123, "text": "hello world"}
TASK = """
{head}
from taskstream import Taskstream

app = Taskstream("bench", {app})
{more}

@app.task({task})
{define} noop(id: int, text: str) -> None:
    {body}
"""


def event_app(event: str, results: str, fsync: str, streams: Sequence[str] = (STREAM,)) -> Files:
    """An event app in which ``event`` (one of EVENTS) consumes each of ``streams``. Its folder needs CONFIG_FILES."""
    files: Files = {"bench_app/__init__.py": "", "bench_app/data.py": _DATA}
    events: dict[str, object] = {}
    for number, stream in enumerate(streams):
        name = f"{event}-{number}"
        files[f"bench_app/{name.replace('-', '_')}.py"] = EVENTS[event]
        events[name] = {"type": "STREAM", "read_stream": {"name": stream, "consumer_group": GROUP}}
    files["config.json"] = {"app": {"name": "bench-app", "version": "1.0"}, "events": events}
    files["server.json"] = {"logging": {"log_level": "WARNING"}, "results": {"url": results, "fsync": fsync}}
    return files


def reading(stream: str = STREAM) -> tuple[str, Message]:
    """A message for the events."""
    return stream, Message(new_id(), "Reading", READING)


def task_text(
    app: str = "results=None",
    task: str = "",
    define: str = "def",
    body: str = "return None",
    head: str = "",
    more: str = "",
) -> str:
    """The module ``bench`` with a task ``noop``, as text.

    ``app`` and ``task`` are the arguments of ``Taskstream`` and of ``@app.task``; ``head`` comes before the app,
    ``more`` after it.
    """
    return TASK.format(app=app, task=task, define=define, body=body, head=head, more=more).lstrip()


def task_app(text: str | None = None) -> Files:
    """A folder with the module ``bench``; the pool needs ``-A bench:app``."""
    return {"bench.py": task_text() if text is None else text}


def producer(text: str, url: str) -> ModuleType:
    """The module ``bench`` in this process, to send from; its ``app`` is connected to ``url``."""
    os.environ["TASKSTREAM_BROKER"] = url  # where an app without a broker of its own looks
    made = ModuleType("bench")
    made.__dict__["__file__"] = __file__
    exec(compile(text, "bench.py", "exec"), made.__dict__)
    return made


def call(number: int, *, priority: int = 5, body: bytes | None = None) -> Message:
    """A call of ``noop`` as ``delay`` makes it."""
    made = body or encode_json({"kwargs": {**ARGUMENTS, "id": number}})
    return Message(new_id(), "bench.noop", made, priority=priority)


def work_off(
    broker: Broker,
    files: Files,
    *arguments: str,
    processes: int = 1,
    level: str = "WARNING",
    count_left: Callable[[], int] | None = None,
    leave: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Drained:
    """Start a pool for the app of ``files`` and measure how it works off what waits, but for the last ``leave``."""
    with (
        app_folder(files) as folder,
        pool(folder, broker.url, *arguments, processes=processes, level=level, environment=environment) as workers,
    ):
        return drained(broker.client, workers, count_left or (lambda: left(broker)), leave=leave)


def left(broker: Broker, queue: str = QUEUE, group: str = QUEUE_GROUP) -> int:
    """Messages of a queue that are not done: in its stream, in the group's own, among those with a rank."""
    client: redis.Redis = broker.client
    waiting = client.zcard(keys.ranked(queue, group))
    return broker.stream_length(queue) + broker.stream_length(keys.again(queue, group)) + int(waiting)
