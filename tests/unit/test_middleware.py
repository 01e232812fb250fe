"""Hooks without a worker: who is asked for a delay, what is refused, what a call passes through."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from taskstream import ConfigError, Middleware, Postpone, QueueFull, Refuse, Taskstream, ValidationError
from taskstream.app import core
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.handler import Handler, Settings
from taskstream.message import Delivery, Message
from taskstream.middleware import NEVER, RETRIES, Retries, Run, delay_of, overriding


class FakeBroker:
    """Keeps what is sent; has ``room`` for so many messages."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.room = 100

    def send(self, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return envelope.message.id

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        taken = envelopes[: self.room]
        self.envelopes += taken
        ids: list[str | None] = [one.message.id for one in taken]
        return Sent(ids, QueueFull("stream shop is full") if len(taken) < len(envelopes) else None)


def run_of(attempt: int = 1, **settings: Any) -> Run:
    handler = Handler("shop.work", lambda delivery: None, "shop", "-", logging.DEBUG, Settings(**settings))
    return Run(Delivery(Message("m1", "shop.work", b"{}", attempt=attempt), "shop", "g", "1-1", 1), handler)


class Says(Middleware):
    def __init__(self, delay: Any) -> None:
        self.delay = delay

    def retry_delay(self, run: Run, error: BaseException) -> float | None:
        if isinstance(self.delay, Exception):
            raise self.delay
        found: float | None = self.delay
        return found


# -- the decision about a failed run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], 8.0),
        ([3.5], 3.5),
        ([0], 0),
        ([None, 2.0, 5.0], 2.0),
        ([None], 8.0),
        ([NEVER], None),
        ([ValueError("broken")], 8.0),
        ([-1.0], 8.0),
        ([float("nan")], 8.0),
        ([1e300], 8.0),
        (["soon"], 8.0),
    ],
)
def test_the_first_opinion_counts_and_retries_comes_last(asked: list[Any], expected: float | None) -> None:
    run = run_of(4, retry_backoff=1.0, max_retries=5, retry_jitter=False)
    assert delay_of([*map(Says, asked), RETRIES], run, ValueError()) == expected


def test_retries_goes_by_the_settings() -> None:
    retries = Retries(uniform=lambda low, high: high / 4)
    settings: dict[str, Any] = {"max_retries": 2, "retry_for": (OSError,), "retry_backoff": 2.0}
    assert retries.retry_delay(run_of(1, **settings), OSError()) == 0.5
    assert retries.retry_delay(run_of(2, **settings), OSError()) == 1.0
    assert retries.retry_delay(run_of(3, **settings), OSError()) == NEVER
    assert retries.retry_delay(run_of(1, **settings), ValueError()) == NEVER


def test_without_anybody_to_ask_nothing_is_tried_again() -> None:
    assert delay_of([], run_of(), ValueError()) is None


def test_what_a_hook_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    delay_of([Says(KeyError("gone")), RETRIES], run_of(), ValueError())
    assert "Hook failed" in caplog.text and "Says.retry_delay" in caplog.text and "gone" in caplog.text


def test_only_what_is_overridden_is_called() -> None:
    plain, says = Middleware(), Says(1.0)
    assert overriding([plain, says], "retry_delay") == [says]
    assert overriding([plain, says], "before_run") == []


# -- configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[Middleware], [object()], Middleware(), Middleware, ["Says"], 5])
def test_what_is_no_middleware_is_refused(given: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^Taskstream\('shop'\): middleware=.* is no (list|instance of a Middleware): \w+ "
    ):
        Taskstream("shop", middleware=given)


def test_a_hook_that_would_never_run_is_refused() -> None:
    class Eager(Middleware):
        async def before_run(self, run: Run) -> None: ...  # type: ignore[override]

    with pytest.raises(ConfigError, match=r"^Taskstream\('shop'\): Eager\.before_run is async def: hooks are plain"):
        Taskstream("shop", middleware=[Eager()])


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
def test_postpone_takes_a_time_that_can_be_kept(seconds: float) -> None:
    with pytest.raises(ValueError, match="give seconds from 0 on"):
        Postpone(seconds)


def test_a_task_gets_the_hooks_of_its_app_before_the_retries() -> None:
    hook = Middleware()
    app = Taskstream("shop", middleware=[hook])

    @app.task
    def work() -> None: ...

    assert work.handler().middleware == (hook, RETRIES)
    assert Handler("n", lambda delivery: None, "a", "-", 10).middleware == (RETRIES,)


# -- sending -------------------------------------------------------------------------------------------------


class Traced(Middleware):
    """Adds a header; refuses, or breaks, where the arguments say so; notes what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any] | None]] = []

    def before_enqueue(self, queue: str, message: Message) -> Mapping[str, Any] | None:
        if b"refuse" in message.body:
            raise Refuse("not today")
        if b"break" in message.body:
            raise RuntimeError("broken hook")
        if b"reserved" in message.body:
            return {"ts-order": "x"}
        return {"traceparent": "00-1"} if b"plain" not in message.body else None

    def after_enqueue(self, queue: str, message: Message) -> None:
        self.sent.append((queue, message.id, message.headers))
        raise RuntimeError("after it")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker()
    monkeypatch.setattr(core, "Broker", lambda url: made)
    return made


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
def app(traced: Traced, broker: FakeBroker) -> Taskstream:
    app = Taskstream("shop", broker="redis://code", middleware=[traced])

    @app.task(name="work")
    def work(what: str) -> None: ...

    return app


def test_a_hook_adds_headers_and_hears_what_was_sent(app: Taskstream, traced: Traced, broker: FakeBroker) -> None:
    work = app.tasks["work"]
    first = work.delay("traced")
    second = work.apply_async(["traced"], headers={"own": 1}, task_id="my-id")
    third = work.delay("plain")
    many = app.enqueue_many([work.s("traced"), work.s("plain")])
    headers = [one.message.headers for one in broker.envelopes]
    trace = {"traceparent": "00-1"}
    assert headers == [trace, {"own": 1, **trace}, None, trace, None]
    assert traced.sent == [
        *(("shop", first.id, trace), ("shop", "my-id", {"own": 1, **trace}), ("shop", third.id, None)),
        *(("shop", many[0].id, trace), ("shop", many[1].id, None)),
    ]
    assert second.id == "my-id"


def test_a_hook_refuses_a_call_and_nothing_is_sent(app: Taskstream, traced: Traced, broker: FakeBroker) -> None:
    work = app.tasks["work"]
    with pytest.raises(Refuse, match="not today"):
        work.delay("refuse")
    with pytest.raises(Refuse, match="not today"):
        app.enqueue_many([work.s("traced"), work.s("refuse")])
    assert broker.envelopes == [] and traced.sent == []


@pytest.mark.parametrize("what", ["break", "reserved"])
def test_a_hook_that_fails_stops_no_call(
    app: Taskstream, broker: FakeBroker, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.tasks["work"].delay(what)
    assert [one.message.headers for one in broker.envelopes] == [None]
    assert "Traced.before_enqueue" in caplog.text


def test_an_invalid_call_reaches_no_hook(app: Taskstream, traced: Traced) -> None:
    with pytest.raises(ValidationError):
        app.tasks["work"].delay(5)
    assert traced.sent == []


def test_what_was_not_sent_is_not_told(app: Taskstream, traced: Traced, broker: FakeBroker) -> None:
    broker.room = 1
    with pytest.raises(Exception, match="full"):
        app.enqueue_many([app.tasks["work"].s("plain")] * 3)
    assert len(traced.sent) == 1
