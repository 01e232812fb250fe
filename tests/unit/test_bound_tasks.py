"""Tasks that know their run: ``bind=True``, ``self.request``, ``self.retry``, and what a run hands on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from taskstream import ConfigError, Retry, Task, Taskstream
from taskstream import ValidationError as Invalid
from taskstream.app.options import Options, TaskOptions
from taskstream.message import Delivery, Message, encode_json
from taskstream.running import MOST_PUBLISHED, note_published, run_alone

SENT_MS = 1_790_000_000_123


@pytest.fixture
def app() -> Taskstream:
    made = Taskstream("shop", broker="redis://nowhere")
    made.bind(lambda coroutine: coroutine.send(None), "host.1")
    return made


def delivery(task: Task[..., Any, Any], *args: Any, headers: dict[str, Any] | None = None, **more: Any) -> Delivery:
    """A hand-out of a call of ``task``."""
    message = Message("m1", task.name, encode_json({"args": args}), headers, **more)
    return Delivery(message, "images", "taskstream", f"{SENT_MS}-0", 4)


def run(task: Task[..., Any, Any], *args: Any, headers: dict[str, Any] | None = None, **more: Any) -> Any:
    """Run a call as a worker does: in a context of its own."""
    return run_alone(task.handler().run, delivery(task, *args, headers=headers, **more))


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        call()
    return caught.value


# -- the request ---------------------------------------------------------------------------------------------


def test_a_bound_task_is_told_of_its_message(app: Taskstream) -> None:
    found: dict[str, Any] = {}

    @app.task(bind=True)
    def look(self: Task, day: datetime, *, size: int = 1) -> str:
        request = self.request
        for name in ("id", "task", "args", "kwargs", "attempt", "retries", "deliveries", "headers", "queue", "worker"):
            found[name] = getattr(request, name)
        for name in ("group", "parent_id", "root_id", "sent", "called_directly"):
            found[name] = getattr(request, name)
        return self.name

    headers = {"request_id": "r", "ts-parent": "p", "ts-root": "o", "ts-group": "g", "ts-deaths": 1}
    assert run(look, "2026-01-02T03:04:05+00:00", headers=headers, attempt=3) == "shop.look"
    assert found == {
        "id": "m1",
        "task": "shop.look",
        "args": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)],
        "kwargs": {},
        "attempt": 3,
        "retries": 2,
        "deliveries": 4,
        "headers": {"request_id": "r"},
        "queue": "images",
        "worker": "host.1",
        "group": "g",
        "parent_id": "p",
        "root_id": "o",
        "sent": datetime.fromtimestamp(SENT_MS / 1000, UTC),
        "called_directly": False,
    }


def test_an_async_task_is_told_of_its_message(app: Taskstream) -> None:
    @app.task(bind=True)
    async def look(self: Task) -> str:
        return self.request.id

    assert run(look) == "m1"


def test_a_message_that_nothing_published_is_its_own_root(app: Taskstream) -> None:
    @app.task(bind=True)
    def look(self: Task) -> tuple[str | None, str, str | None]:
        return self.request.parent_id, self.request.root_id, self.request.group

    assert run(look) == (None, "m1", None)
    assert run(look, headers={"ts-parent": "p", "ts-group": 5}) == ("p", "p", None)


def test_a_task_called_like_a_function_has_no_message(app: Taskstream) -> None:
    @app.task(bind=True)
    def inner(self: Task) -> tuple[str, int, bool, str]:
        return self.request.id, self.request.retries, self.request.called_directly, self.request.root_id

    @app.task(bind=True)
    def outer(self: Task) -> tuple[str, int, bool, str]:
        assert self.request.id == "m1"
        return inner()

    assert inner() == ("", 0, True, "")
    assert run(outer) == ("", 0, True, "")


def test_the_task_is_no_argument_of_a_call(app: Taskstream) -> None:
    @app.task(bind=True)
    def small(self: Nowhere, path: str, size: int = 1) -> str:  # type: ignore[name-defined]  # noqa: F821
        return f"{path}@{size}"

    assert small("a", size=2) == "a@2"
    assert small.message(("a",), {"size": 2}).body == b'{"args":["a"],"kwargs":{"size":2}}'
    with pytest.raises(Invalid, match="self: there is no such argument"):
        small.message(("a",), {"self": 2})
    with pytest.raises(Invalid, match="size: Not a valid integer"):
        small.message(("a", "b"), {})


def test_a_bound_task_takes_itself_as_an_argument(app: Taskstream) -> None:
    with pytest.raises(ConfigError, match=r"task shop\.nothing: bind=True gives the task as first argument"):

        @app.task(bind=True)  # type: ignore[arg-type]
        def nothing() -> None: ...

    with pytest.raises(ConfigError, match="bind='yes' cannot be used"):
        app.task(bind="yes", name="odd")(lambda self: None)  # type: ignore[call-overload]


def test_options_are_typed_as_there_are() -> None:
    assert set(TaskOptions.__annotations__) | {"bind"} == set(Options.__struct_fields__)


# -- what a run hands on -------------------------------------------------------------------------------------


def test_what_a_run_sends_knows_where_it_comes_from(app: Taskstream) -> None:
    @app.task
    def child(n: int) -> None: ...

    @app.task
    def parent() -> list[dict[str, Any] | None]:
        named = child.message((1,), {}, None, {"request_id": "own", "a": 1})
        return [child.message((1,), {}).headers, named.headers]

    assert child.message((1,), {}).headers is None
    assert run(parent) == [{"ts-parent": "m1"}, {"request_id": "own", "a": 1, "ts-parent": "m1"}]
    headers = {"request_id": "r", "mine": 1, "ts-parent": "p", "ts-root": "o"}
    assert run(parent, headers=headers)[0] == {"request_id": "r", "ts-parent": "m1", "ts-root": "o"}
    assert run(parent, headers={"ts-parent": "p"})[0] == {"ts-parent": "m1", "ts-root": "p"}


def test_a_run_remembers_what_it_sent_up_to_a_bound(app: Taskstream) -> None:
    @app.task
    def parent() -> None:
        note_published(["a", "b"])
        note_published(str(n) for n in range(MOST_PUBLISHED))

    handed = delivery(parent)
    run_alone(parent.handler().run, handed)
    assert handed.published is not None
    assert handed.published[:3] == ["a", "b", "0"] and len(handed.published) == MOST_PUBLISHED
    note_published(["outside"])


# -- retry ---------------------------------------------------------------------------------------------------


def test_retry_ends_the_run_whatever_the_task_catches(app: Taskstream) -> None:
    @app.task(bind=True)
    def wants(self: Task) -> None:
        try:
            self.retry(countdown=3, max_retries=7)
        except Exception:
            return

    error = raised(lambda: run(wants))
    assert isinstance(error, Retry)
    assert (error.delay, error.due_ms, error.max_retries, error.cause) == (3, None, 7, None)


def test_retry_at_a_time(app: Taskstream) -> None:
    when = datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))

    @app.task(bind=True)
    async def wants(self: Task) -> None:
        raise self.retry(eta=when)

    error = raised(lambda: run(wants))
    assert isinstance(error, Retry) and error.due_ms == int(datetime(2030, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_retry_keeps_what_went_wrong(app: Taskstream) -> None:
    @app.task(bind=True)
    def wants(self: Task, give: bool) -> None:
        try:
            raise OSError("handled")
        except OSError:
            self.retry(exc=KeyError("given") if give else None)

    given, handled = raised(lambda: run(wants, True)), raised(lambda: run(wants, False))
    assert isinstance(given, Retry) and isinstance(given.cause, KeyError)
    assert isinstance(handled, Retry) and isinstance(handled.cause, OSError)


def test_retry_of_a_task_called_like_a_function_raises_the_cause(app: Taskstream) -> None:
    @app.task(bind=True)
    def wants(self: Task, give: bool) -> None:
        self.retry(exc=KeyError("x") if give else None)

    assert isinstance(raised(lambda: wants(True)), KeyError)
    assert isinstance(raised(lambda: wants(False)), Retry)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"exc": "text"}, "exc: 'text' cannot be used: give an exception"),
        ({"countdown": -1}, "countdown: -1 cannot be used: give seconds from 0 on"),
        ({"countdown": True}, "countdown: True cannot be used"),
        ({"countdown": float("inf")}, "countdown: inf cannot be used"),
        ({"countdown": 1e300}, "countdown: 1e+300 cannot be used: give seconds from 0 on, at most 100 years"),
        ({"eta": datetime(2030, 1, 1)}, "give a datetime with a time zone"),
        ({"eta": 5}, "eta: 5 cannot be used"),
        ({"eta": datetime(2030, 1, 1, tzinfo=UTC), "countdown": 1}, "give either countdown or eta"),
        ({"max_retries": -1}, "max_retries: -1 cannot be used: give a whole number from 0 on"),
    ],
)
def test_retries_that_cannot_be_are_refused(app: Taskstream, given: dict[str, Any], said: str) -> None:
    @app.task(bind=True)
    def wants(self: Task) -> None:
        self.retry(**given)

    error = raised(lambda: run(wants))
    assert isinstance(error, Invalid) and str(error).startswith("shop.wants: retry: ") and said in str(error)


# -- progress ------------------------------------------------------------------------------------------------


def test_progress_is_noted_for_the_run(app: Taskstream, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[Any, ...]] = []
    monkeypatch.setattr(app.unfinished, "note", lambda handed, *words: noted.append((handed.message.id, *words)))

    @app.task(bind=True, track_started=True)
    def steps(self: Task, n: int) -> None:
        self.progress(1)
        self.progress(1.5, n, file="x")

    run(steps, 3)
    assert noted == [
        ("m1", "STARTED", "host.1"),
        ("m1", "PROGRESS", "host.1", {"done": 1}),
        ("m1", "PROGRESS", "host.1", {"done": 1.5, "total": 3, "file": "x"}),
    ]
    # Called like any function, nothing is
    steps(3)
    assert len(noted) == 3


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        (("3",), {}, "shop.steps: progress: done: '3' is no number"),
        ((3, True), {}, "shop.steps: progress: total: True is no number"),
        ((3,), {"file": object()}, "shop.steps: progress: not serialisable as JSON"),
    ],
)
def test_progress_that_cannot_be_told_is_refused(
    app: Taskstream, given: tuple[Any, ...], more: dict[str, Any], said: str
) -> None:
    @app.task(bind=True)
    def steps(self: Task) -> None:
        self.progress(*given, **more)

    error = raised(lambda: run(steps))
    assert isinstance(error, Invalid) and said in str(error)
    assert isinstance(raised(steps), Invalid)
