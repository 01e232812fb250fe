"""Handles: what get() returns and raises, and which stores count as out of reach. No server, no sleeping."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from taskstream import (
    AsyncResult,
    BrokerUnavailable,
    ResultTimeout,
    ResultUnavailable,
    TaskFailed,
    TaskRevoked,
    Taskstream,
    TaskTimeout,
)
from taskstream.app import location
from taskstream.app.outcomes import Outcomes
from taskstream.results.base import Failure, Outcome


def outcome(state: str, *, handler: str = "shop.task", value: bytes = b"null", error: Failure | None = None) -> Outcome:
    return Outcome("id", "taskstream", handler, state, 1, 1, 0, 0, 0, "w", msgspec.Raw(value), error)


class FakeStore:
    def __init__(self, url: str = "redis://results") -> None:
        self.url = url
        self.kept: dict[str, Outcome] = {}
        self.reads = 0

    def write(self, outcomes: Sequence[Outcome]) -> None:
        self.kept.update({one.id: one for one in outcomes})

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        assert group == "taskstream"
        self.reads += 1
        return [self.kept[message_id]] if message_id in self.kept else []

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        return 0

    def close(self) -> None:
        """Nothing is open."""


class FakeWaiter:
    """Runs ``meanwhile`` as soon as somebody waits, then says that the message may have finished."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.queues: list[Sequence[str]] = []

    @contextlib.contextmanager
    def waiting(self, message_id: str, queues: Sequence[str]) -> Iterator[threading.Event]:
        self.queues.append(queues)
        event = threading.Event()
        original = event.wait

        def wait(timeout: float | None = None) -> bool:
            self.meanwhile()
            event.set()
            return original(0)

        event.wait = wait  # type: ignore[method-assign]
        yield event


class FakeBroker:
    def __init__(self) -> None:
        self.found: list[dict[str, Any]] | BrokerUnavailable = []
        self.asked = 0

    def workers(self) -> list[dict[str, Any]]:
        self.asked += 1
        if isinstance(self.found, BrokerUnavailable):
            raise self.found
        return self.found


@pytest.fixture
def parts() -> tuple[FakeStore, FakeWaiter, FakeBroker]:
    return FakeStore(), FakeWaiter(), FakeBroker()


@pytest.fixture
def app(parts: tuple[FakeStore, FakeWaiter, FakeBroker]) -> Taskstream:
    store, waiter, broker = parts
    app = Taskstream("shop")
    app._outcomes = Outcomes(store, waiter, broker)  # type: ignore[arg-type]

    @app.task(queue="calendar")
    def tomorrow() -> date:
        raise NotImplementedError

    return app


def handle(app: Taskstream) -> AsyncResult[Any]:
    return app.AsyncResult("id")


def test_states(app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]) -> None:
    result = handle(app)
    assert (result.state, result.ready()) == ("PENDING", False)
    for state, ready in (("RETRY", False), ("SUCCESS", True), ("FAILURE", True), ("REVOKED", True)):
        parts[0].write([outcome(state)])
        assert (result.state, result.ready()) == (state, ready)


def test_a_value_that_is_there_is_returned_without_waiting(
    app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]
) -> None:
    parts[0].write([outcome("SUCCESS", value=b'{"a":1}')])
    assert handle(app).get() == {"a": 1}
    assert not parts[1].queues and parts[0].reads == 1


def test_a_value_comes_back_as_its_task_says(app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]) -> None:
    parts[0].write([outcome("SUCCESS", handler="shop.tomorrow", value=b'"2026-07-03"')])
    assert handle(app).get() == date(2026, 7, 3)


def test_get_waits_until_the_outcome_is_final(app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]) -> None:
    store, waiter, _ = parts
    states = iter(["RETRY", "RETRY", "SUCCESS"])
    waiter.meanwhile = lambda: store.write([outcome(next(states))])
    assert handle(app).get(timeout=30) is None
    assert next(states, None) is None
    assert waiter.queues == [["calendar"]]  # a handle from an id alone waits on every queue of the app


def test_what_finished_before_the_waiter_was_registered_is_seen(
    app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, waiter, _ = parts
    original = waiter.waiting

    @contextlib.contextmanager
    def finishes_first(message_id: str, queues: Sequence[str]) -> Iterator[threading.Event]:
        with original(message_id, queues) as event:
            store.write([outcome("SUCCESS", value=b"5")])
            yield event

    waiter.meanwhile = lambda: pytest.fail("it waited")
    monkeypatch.setattr(waiter, "waiting", finishes_first)
    assert handle(app).get(timeout=30) == 5


@pytest.mark.parametrize("timeout", [0, -1, 0.0])
def test_no_outcome_in_time(app: Taskstream, timeout: float) -> None:
    with pytest.raises(
        ResultTimeout, match=r"no outcome of message id within [-0-9.]+ s; it waits, .*taskstream queues"
    ):
        handle(app).get(timeout=timeout)


def test_time_runs_out_while_waiting(app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]) -> None:
    with pytest.raises(TimeoutError):
        handle(app).get(timeout=0.01)
    assert parts[0].reads > 1


@pytest.mark.parametrize(
    ("state", "type_name", "kind"),
    [
        ("FAILURE", "KeyError", TaskFailed),
        ("FAILURE", "TimeLimitExceeded", TaskTimeout),
        ("REVOKED", "Revoked", TaskRevoked),
    ],
)
def test_failures_carry_what_the_worker_saw(
    app: Taskstream,
    parts: tuple[FakeStore, FakeWaiter, FakeBroker],
    state: str,
    type_name: str,
    kind: type[TaskFailed],
) -> None:
    parts[0].write([outcome(state, error=Failure(type_name, "'k'", "Traceback: …"))])
    with pytest.raises(TaskFailed) as caught:
        handle(app).get()
    assert type(caught.value) is kind
    assert (caught.value.type_name, caught.value.message) == (type_name, "'k'")
    assert caught.value.traceback_text == "Traceback: …"


def test_a_failure_without_an_error_still_says_what_failed(
    app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]
) -> None:
    parts[0].write([outcome("REVOKED")])
    with pytest.raises(TaskRevoked, match=r"shop\.task ended as REVOKED"):
        handle(app).get()


def worker(results: Mapping[str, Any] | None, stream: str = "calendar") -> dict[str, Any]:
    return {"name": "w1", "subscriptions": [{"stream": stream}], "results": results}


def test_a_worker_that_writes_elsewhere_is_told_at_once_and_to_everyone(
    app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]
) -> None:
    parts[2].found = [worker({"url": "file:///srv/results", "host": "far", "mark": "abc"})]
    for _ in range(2):
        with pytest.raises(ResultUnavailable, match="worker w1 keeps its results in /srv/results on host far"):
            handle(app).get(timeout=30)
    for nothing in (None, {"url": None, "host": "far"}):
        parts[2].found = [worker(nothing)]
        with pytest.raises(ResultUnavailable, match="worker w1 keeps no results"):
            handle(app).get(timeout=30)


def test_workers_of_other_queues_and_the_same_store_are_no_reason(
    app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]
) -> None:
    store, waiter, broker = parts
    broker.found = [
        worker(None, stream="other"),
        worker({"url": "redis://results", "host": "far", "mark": None}),
        {"name": "says nothing", "subscriptions": [{"stream": "calendar"}]},
    ]
    waiter.meanwhile = lambda: store.write([outcome("SUCCESS")])
    assert handle(app).get(timeout=30) is None
    store.kept.clear()
    assert handle(app).get(timeout=30) is None
    assert broker.asked == 1  # believed for a while


def test_where_workers_write_is_no_reason_while_the_broker_is_away(
    app: Taskstream, parts: tuple[FakeStore, FakeWaiter, FakeBroker]
) -> None:
    store, waiter, broker = parts
    broker.found = BrokerUnavailable("away")
    waiter.meanwhile = lambda: store.write([outcome("SUCCESS")])
    assert handle(app).get(timeout=30) is None


def described(url: str, host: str = "here", mark: str | None = None) -> dict[str, str | None]:
    return {"url": url, "host": host, "mark": mark}


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        (described("file:///a"), described("file:///a"), True),
        (described("file:///a"), described("file:///b"), False),
        (described("file:///a"), described("file:///a", "there"), False),
        (described("redis://r"), described("redis://r", "there"), True),
        (described("redis://***@r"), described("redis://:secret@r", "there"), True),
        (described("file:///a", mark="m"), described("file:///mounted", "there", "m"), True),
        (described("file:///a", mark="m"), described("file:///a", mark="n"), False),
        (described("file:///a"), described("file:///a", mark="n"), False),
    ],
)
def test_same_store(mine: dict[str, Any], theirs: dict[str, Any], same: bool) -> None:
    assert location.same(mine, theirs) is same


def test_the_writer_marks_its_folder_and_readers_leave_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "results 100%"
    store = FakeStore(f"file://{folder}")
    seen = location.describe(store, make_mark=False)
    assert seen is not None and seen["mark"] is None and not folder.exists()
    written = location.describe(store, make_mark=True)
    assert written is not None and written["mark"]
    assert location.describe(store, make_mark=False) == written == location.describe(store, make_mark=True)
    assert [path.name for path in folder.iterdir()] == [".store-id"]
    assert location.describe(None, make_mark=True) is None


def test_a_folder_that_cannot_be_made_has_no_mark(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = location.describe(FakeStore(f"json://{tmp_path}/file/results"), make_mark=True)
    assert found is not None and found["mark"] is None
    assert location.named(found).startswith(f"{tmp_path}/file/results on host ")


def test_handles_are_values(app: Taskstream) -> None:
    assert handle(app) == app.AsyncResult("id") and len({handle(app), app.AsyncResult("id")}) == 1
    assert handle(app) != app.AsyncResult("other") and repr(handle(app)) == "<AsyncResult id>"
