"""Server-sent events of a call: what is told, when a stream ends, and what it leaves behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec import Raw

from taskstream import ResultUnavailable, Taskstream
from taskstream.app.outcomes import Outcomes
from taskstream_webapp import streams
from taskstream_webapp.app import build
from taskstream_webapp.held import Held
from taskstream_webapp.streams import END, HEARTBEAT_S, LONGEST_S, LOOK_S, Now, Stream
from taskstream_webapp.wiring import gather

from .test_events import problem
from .test_tasks import client, outcome, task_broker, tasks

__all__ = ["client", "task_broker", "tasks"]  # fixtures


class Clock(threading.Event):
    """Time that passes only while somebody waits; ``told`` is how often a wait ends at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.told = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, timeout: float | None = None) -> bool:
        if self.told:
            self.told -= 1
            return True
        self.now += timeout or 0
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(streams, "time", found)
    return found


class Told:
    """Reads a stream over what ``look`` finds one after the other; the last stays."""

    def __init__(self, clock: Clock, *found: Now | Exception, seen: str = "") -> None:
        self.found = list(found)
        self.looks = 0
        self.held = Held(1)
        self.watched: list[str] = []
        self.clock = clock
        assert self.held.take()
        self.stream = Stream(streams._pieces(self.look, self.watch, self.held, seen), self.held)

    def look(self) -> Now:
        self.looks += 1
        found = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(found, Exception):
            raise found
        return found

    @contextmanager
    def watch(self) -> Iterator[threading.Event]:
        self.watched.append("begun")
        try:
            yield self.clock
        finally:
            self.watched.append("ended")

    def events(self) -> list[tuple[str, str, Any]]:
        """Kind, id and data of each event to the end."""
        return [parsed(piece) for piece in self.stream if piece.startswith(b"event:")]


def parsed(piece: bytes) -> tuple[str, str, Any]:
    assert piece.endswith(b"\n\n")
    lines = dict(line.split(": ", 1) for line in piece.decode().strip().split("\n"))
    assert list(lines) == ["event", "id", "data"]
    return lines["event"], lines["id"], json.loads(lines["data"])


PENDING = Now("state", "PENDING", {"state": "PENDING"})
HALF = Now("progress", "1", {"state": "PROGRESS", "info": "a\nb\u2028c"})
DONE = Now("result", END, {"state": "SUCCESS"})


def test_every_change_is_told_once_and_the_result_ends_it(clock: Clock) -> None:
    told = Told(clock, PENDING, PENDING, HALF, HALF, DONE)
    clock.told = 4
    assert told.events() == [
        ("state", "PENDING", PENDING.record),
        ("progress", "1", HALF.record),
        ("result", END, DONE.record),
    ]
    assert told.watched == ["begun", "ended"] and told.held.taken == 0


def test_who_comes_back_is_not_told_again(clock: Clock) -> None:
    assert Told(clock, PENDING, DONE, seen="PENDING").events() == [("result", END, DONE.record)]


def test_silence_is_broken_by_comments_and_looked_into(clock: Clock) -> None:
    told = Told(clock, PENDING)
    pieces = list(told.stream)
    assert pieces[0] == b"retry: 3000\n\n" and pieces[1].startswith(b"event: state\n")
    assert set(pieces[2:]) == {b": still here\n\n"}
    assert abs(len(pieces[2:]) - LONGEST_S / HEARTBEAT_S) <= 1
    assert abs(told.looks - LONGEST_S / LOOK_S) <= 2
    assert told.held.taken == 0


def test_a_stop_of_the_server_ends_it(clock: Clock) -> None:
    told = Told(clock, PENDING)
    assert next(told.stream) and next(told.stream)
    told.held.stop()
    assert list(told.stream) == []
    assert told.watched == ["begun", "ended"] and told.held.taken == 0


def test_results_that_cannot_be_read_any_more_are_told(clock: Clock) -> None:
    ((kind, _, data),) = Told(clock, ResultUnavailable("they are elsewhere")).events()
    assert (kind, data["status"], data["detail"]) == ("problem", 503, "they are elsewhere")


@pytest.mark.parametrize("read", [0, 2])
def test_a_client_that_goes_gives_the_thread_back_once(clock: Clock, read: int) -> None:
    told = Told(clock, PENDING)
    for _ in range(read):
        next(told.stream)
    told.stream.close()
    told.stream.close()
    assert told.held.taken == 0 and told.watched in ([], ["begun", "ended"])


@contextmanager
def unwatched(message_id: str, queues: object) -> Iterator[threading.Event]:
    yield threading.Event()


def test_the_route(client: FlaskClient, tasks: Taskstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outcomes, "watching", lambda self, message_id, queues: unwatched(message_id, queues))
    assert tasks.results is not None
    tasks.results.write([outcome("done", value=Raw(b"7"))])
    response = client.get("/api/tasks/done/events")
    assert response.status_code == 200 and response.content_type == "text/event-stream"
    retry, event, rest = response.get_data().split(b"\n\n", 2)
    assert retry == b"retry: 3000" and rest == b""
    assert parsed(event + b"\n\n") == ("result", END, client.get("/api/tasks/done").json)
    assert client.get("/api/tasks/done/events", headers={"Last-Event-ID": END}).status_code == 204
    problem(client.get("/api/tasks/a b/events"), 404)
    problem(client.get("/api/tasks/done/events", headers={"Sec-Fetch-Site": "cross-site"}), 403)
    problem(client.get("/api/tasks/done/events", headers={"Origin": "http://evil.example"}), 403)
    assert client.get("/api/tasks/done/events", headers={"User-Agent": "Mozilla/5.0"}).status_code == 200
    assert client.head("/api/tasks/done/events").status_code == 405
    problem(client.post("/api/tasks/done/events"), 405)


def test_a_stream_too_many_is_503_and_others_are_answered(tasks: Taskstream) -> None:
    held = Held(1)
    client = build(gather(None, tasks, lambda coroutine: None), held).test_client()
    with held.one():
        response = client.get("/api/tasks/some-id/events")
        assert "1 requests" in problem(response, 503)["detail"] and response.headers["Retry-After"]
        assert client.post("/api/tasks/shop.anything", json={}).status_code == 202
    assert held.taken == 0
