"""Tasks that know their run, in real pools: requests, retries, progress, children, and revoking, also under SIGKILL."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import Started, eventually
from jobs import kill, worker_processes

from taskstream import TaskFailed, TaskRevoked, Taskstream, keys
from taskstream.control import Control
from taskstream.handler import QUEUE_GROUP

MODULE = """
import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from taskstream import Retry, Task, Taskstream, shared_task

HERE = Path(__file__).parent
app = Taskstream("bound", results="json://results")


def note(*words):
    with open(HERE / "runs", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")


@app.task
def add(a: int, b: int) -> int:
    note("add", a, b)
    return a + b


@app.task(bind=True)
def look(self: Task, n: int) -> dict:
    request = self.request
    return {
        "id": request.id, "args": list(request.args), "attempt": request.attempt, "headers": request.headers,
        "queue": request.queue, "worker": request.worker, "deliveries": request.deliveries,
        "age": (datetime.now(UTC) - request.sent).total_seconds(),
    }


@app.task(bind=True)
def again(self: Task, how: str) -> list:
    request = self.request
    note("again", how, request.attempt)
    if how == "thrice" and request.retries < 2:
        self.retry(countdown=0)
    if how == "eta" and not request.retries:
        self.retry(eta=datetime.now(UTC) + timedelta(seconds=0.5))
    if how == "gives up":
        try:
            raise KeyError("no luck")
        except KeyError:
            self.retry(countdown=0, max_retries=1)
    return [how, request.attempt]


@app.task(bind=True)
async def again_later(self: Task, waits: bool) -> int:
    if waits:
        await asyncio.sleep(0.01)
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)
    return self.request.attempt


@app.task
def again_unbound() -> str:
    note("unbound")
    if len((HERE / "runs").read_text().split("unbound")) < 3:
        raise Retry(delay=0)
    return "done"


@app.task(bind=True, track_started=True)
def steps(self: Task, key: str) -> str:
    note("steps", key)
    while not (HERE / f"step-{key}").exists():
        time.sleep(0.01)
    self.progress(3, 7, file="x")
    while not (HERE / f"go-{key}").exists():
        time.sleep(0.01)
    return key


@app.task
def family(key: str, tasks: int) -> list[str]:
    note("family", key)
    one = add.delay(1, 2)
    many = app.enqueue_many(add.s(n, 0) for n in range(tasks))
    other = app.send_task("bound.add", (5, 6))
    while not (HERE / f"go-{key}").exists():
        time.sleep(0.01)
    return [one.id, *(handle.id for handle in many), other.id]


@app.task
async def family_later() -> str:
    await asyncio.sleep(0)
    return add.delay(3, 4).id


@app.task
def waits_inside(a: int) -> int:
    return add.delay(a, 1).get(timeout=10) + add.delay(a, 2).get(timeout=10)


@app.task(max_deliveries=9)
def slow(key: str) -> str:
    note("slow", key)
    try:
        while not (HERE / f"go-{key}").exists():
            time.sleep(0.01)
    except BaseException as error:
        note("ended", key, type(error).__name__)
        raise
    return key


@app.task
async def slow_later(key: str) -> str:
    note("slow", key)
    try:
        while not (HERE / f"go-{key}").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError as error:
        note("ended", key, type(error).__name__)
        raise
    return key


@shared_task(queue="bound-other")
def shared(a: int) -> int:
    return a * 2


@app.task
def calls_shared(a: int) -> str:
    return shared.delay(a).id
"""


class App:
    """The app in ``folder``, its pools, and what its tasks have noted."""

    def __init__(self, folder: Path, url: str, start: Callable[..., Started]) -> None:
        self.folder = folder
        self.url = url
        self._start = start
        (folder / "bound.py").write_text(MODULE, encoding="utf-8")
        self.app = Taskstream("bound", broker=url, results=f"json://{folder / 'results'}")

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a call by the task's name; return its handle."""
        return self.app.send_task(f"bound.{task}", args, **options)

    def pool(self, *options: str, concurrency: int = 20) -> Started:
        """A pool of one process; it may not be ready yet."""
        words = ("--lease", "1", "--processes", "1", "--concurrency", str(concurrency), "--broker", self.url, *options)
        return self._start("worker", "-A", "bound:app", *words, cwd=self.folder, env={"PYTHONWARNINGS": "error"})

    def runs(self, *words: object) -> int:
        """How often ``words`` were noted."""
        path = self.folder / "runs"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return lines.count(" ".join(map(str, words)))

    def noted(self, *words: object) -> None:
        """Wait until ``words`` were noted."""
        eventually(lambda: self.runs(*words), 20, f"{words} not noted")

    def touch(self, name: str) -> None:
        (self.folder / name).touch()


@pytest.fixture
def bound(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Iterator[App]:
    made = App(tmp_path, broker_url, start_cli)
    yield made
    made.app.close()


def test_a_run_and_what_it_asks_for(bound: App) -> None:
    # Given: one pool, for all that needs no other
    pool = bound.pool("--queues", "bound,bound-other")
    sent = {how: bound.send("again", how) for how in ("thrice", "eta", "gives up")}
    sent |= {f"later {waits}": bound.send("again_later", waits) for waits in (True, False)}
    sent["unbound"] = bound.send("again_unbound")
    look = bound.send("look", 5, headers={"mine": 1}, task_id="looked-at")
    waits = [bound.send("waits_inside", n) for n in range(3)]
    shared = bound.send("calls_shared", 21)

    # Then: it is told of its message
    found = look.get(timeout=20)
    assert found.pop("worker").startswith(bound.app.broker.workers()[0]["name"])
    assert 0 <= found.pop("age") < 60
    assert found == {
        "id": "looked-at",
        "args": [5],
        "attempt": 1,
        "headers": {"mine": 1},
        "queue": "bound",
        "deliveries": 1,
    }
    # And: retries as asked for, with no word of them in the task's options
    assert sent["thrice"].get(timeout=20) == ["thrice", 3]
    started = datetime.now(UTC)
    assert sent["eta"].get(timeout=20) == ["eta", 2] and datetime.now(UTC) - started < timedelta(seconds=15)
    assert [sent[f"later {waits}"].get(timeout=20) for waits in (True, False)] == [3, 3]
    assert sent["unbound"].get(timeout=20) == "done"
    with pytest.raises(TaskFailed, match="KeyError: 'no luck'"):
        sent["gives up"].get(timeout=20)
    assert bound.runs("again", "gives up", 2) == 1 and sent["gives up"].failed() and not sent["thrice"].failed()
    assert isinstance(sent["gives up"].info, TaskFailed) and sent["thrice"].info == ["thrice", 3]

    # And: waiting inside a task works where there are slots, and is warned about once
    assert [one.get(timeout=20) for one in waits] == [3, 5, 7]
    assert pool.output.count("get() inside a task takes a slot") == 1
    # And: a shared task is the loaded app's
    doubled = bound.app.AsyncResult(shared.get(timeout=20))
    eventually(doubled.successful)
    assert doubled.info == 42 and [child.id for child in shared.children] == [doubled.id]


def test_states_and_children_of_a_run(bound: App, redis_client: redis.Redis) -> None:
    # Given: a scheduled call, and no worker yet
    later = bound.send("add", 1, 1, countdown=60)
    assert later.state == "SCHEDULED" and later.info is None
    steps = bound.send("steps", "a")
    family = bound.send("family", "a", 3)
    assert (steps.state, steps.info, steps.children, steps.ready()) == ("PENDING", None, [], False)
    told = redis_client.pubsub()
    told.subscribe(keys.state(steps.id))
    pool = bound.pool()

    # Then: it tells how it gets on, to who asks and to who listens
    eventually(lambda: steps.state == "STARTED", 20)
    bound.touch("step-a")
    eventually(lambda: steps.state == "PROGRESS")
    assert steps.info == {"done": 3, "total": 7, "file": "x"} and not steps.ready()
    heard = [said for _ in range(4) if (said := told.get_message(timeout=1))]
    assert [b"STARTED" in heard[1]["data"], b"PROGRESS" in heard[2]["data"]] == [True, True]
    told.close()

    # When: the process is killed in the middle
    bound.noted("family", "a")
    victim = worker_processes(pool)[0]
    kill(victim, signal.SIGKILL)
    eventually(lambda: bound.runs("family", "a") == 2 and bound.runs("steps", "a") == 2, 20)
    # Then: the state is that of the run that goes on, not of the one that ended
    eventually(lambda: steps.state == "PROGRESS", 20)
    bound.touch("go-a")
    assert steps.get(timeout=20) == "a" and steps.successful() and steps.info == "a"
    # And: the children are those of the run that ended well
    sent = family.get(timeout=20)
    assert [child.id for child in family.children] == sent and len(sent) == 5
    assert [child.get(timeout=20) for child in family.children] == [3, 0, 1, 2, 11]
    assert bound.send("family_later").get(timeout=20) is not None

    # When: it is forgotten
    family.forget()
    steps.forget()
    assert (family.state, family.children, steps.state) == ("PENDING", [], "PENDING")
    assert not redis_client.exists(keys.state(steps.id))


def test_what_was_revoked_never_runs(bound: App, redis_client: redis.Redis) -> None:
    # Given: no worker alive; messages that wait, one for its time, and one on a queue that only its handle knows
    waits, also, scheduled = bound.send("slow", "w"), bound.send("slow", "x"), bound.send("add", 7, 7, countdown=0.5)
    runs = bound.send("add", 8, 8)
    bound.app.revoke([waits, also.id], terminate=True)
    scheduled.revoke()
    scheduled.revoke()  # once more changes nothing
    assert bound.app.AsyncResult(waits.id).state == "PENDING"

    # When: a pool starts
    pool = bound.pool(concurrency=2)
    for handle in (waits, also, scheduled):
        with pytest.raises(TaskRevoked, match="revoked before it ran"):
            handle.get(timeout=20)
        assert handle.state == "REVOKED" and not handle.failed() and handle.ready()
    assert runs.get(timeout=20) == 16
    # Then: none of them ran, none is a dead letter, and what is remembered ends by itself
    assert not bound.runs("slow", "w") and not bound.runs("slow", "x") and not bound.runs("add", 7, 7)
    assert bound.app.broker.group_states("bound")[0].dead == 0
    ttl = redis_client.ttl(keys.revoked("bound", QUEUE_GROUP))
    assert 23 * 3600 < ttl <= 24 * 3600 + 2

    # When: two run, and more wait for their slots in this process
    busy = [bound.send("slow", f"b{n}") for n in range(2)]
    for n in range(2):
        bound.noted("slow", f"b{n}")
    queued = bound.send("slow", "queued")
    queued.revoke()
    busy[0].revoke()  # runs, and goes on
    # As soon as the worker has heard of it, which a busy machine may hold up for longer than a slot takes to be free
    told = Control(bound.app.broker).revoke("bound", QUEUE_GROUP, [queued.id], timeout=20)
    assert [reply.ok for reply in told] == [True]
    bound.touch("go-b0")
    assert busy[0].get(timeout=20) == "b0"
    with pytest.raises(TaskRevoked):
        queued.get(timeout=20)
    # And: one that runs is revoked and its process killed
    busy[1].revoke()
    kill(worker_processes(pool)[0], signal.SIGKILL)
    with pytest.raises(TaskRevoked):
        busy[1].get(timeout=20)
    assert bound.runs("slow", "b1") == 1 and not bound.runs("slow", "queued")


@pytest.mark.parametrize("hint", [True, False])
def test_what_runs_is_terminated(bound: App, monkeypatch: pytest.MonkeyPatch, hint: bool) -> None:
    bound.pool()
    plain, later, other = bound.send("slow", "p"), bound.send("slow_later", "l"), bound.send("slow", "o")
    for key in "plo":
        bound.noted("slow", key)
    if not hint:
        # Lost by pub/sub: a renewal tells of it
        monkeypatch.setattr("taskstream.keys.CONTROL_CHANNEL", "ts:nobody")
    plain.revoke(terminate=True)
    later.revoke(terminate=True)
    for handle in (plain, later):
        with pytest.raises(TaskRevoked, match="revoked while it ran"):
            handle.get(timeout=20)
    bound.noted("ended", "p", "Revoked")
    bound.noted("ended", "l", "CancelledError")
    # Then: its neighbour goes on
    bound.touch("go-o")
    assert other.get(timeout=20) == "o" and not bound.runs("ended", "o", "Revoked")
