"""How one call is sent, without a server: the options of apply_async and Signature.set, limits, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from taskstream import BrokerUnavailable, ConfigError, QueueFull, Taskstream, ValidationError
from taskstream.app import core
from taskstream.app.call_options import SendOptions
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.message import HEADERS_DEPTH

LATER = datetime(2030, 1, 1, tzinfo=UTC)


class FakeBroker:
    """Keeps what is sent; knows ``known`` keys; has ``room`` for so many messages."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.known: dict[str, str] = {}
        self.room = 10_000

    def send(self, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return next((self.known[one] for one in envelope.uniques if one in self.known), envelope.message.id)

    def calls(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """What is noted of what was sent."""

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        ids: list[str | None] = [envelope.message.id for envelope in envelopes[: self.room]]
        self.envelopes += envelopes[: self.room]
        self.room -= len(ids)
        if len(ids) == len(envelopes):
            return Sent(ids)
        return Sent([*ids, *[None] * (len(envelopes) - len(ids))], QueueFull("stream shop is full", limit=5, length=5))


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker()
    monkeypatch.setattr(core, "Broker", lambda url: made)
    return made


@pytest.fixture
def app() -> Taskstream:
    return Taskstream("shop", broker="redis://code")


def thumbnail(path: str, size: int = 128) -> str:
    return f"{path}@{size}"


def test_apply_async_without_options_is_delay(app: Taskstream, broker: FakeBroker) -> None:
    task = app.task(thumbnail)
    first, second = task.apply_async(("a",), {"size": 5}), task.delay("a", size=5)
    one, two = broker.envelopes
    assert [one.message.id, two.message.id] == [first.id, second.id]
    assert one._replace(message=two.message) == two == Envelope("shop", two.message)
    assert one.message.body == two.message.body
    with pytest.raises(ValidationError, match=r"shop\.thumbnail: path: "):
        task.apply_async()
    assert len(broker.envelopes) == 2


def test_options_travel_with_the_message(app: Taskstream, broker: FakeBroker) -> None:
    handle = app.task(thumbnail).apply_async(["a"], task_id="order-7", queue="big", headers={"tenant": {"id": 5}})
    sent = broker.envelopes[0]
    assert (handle.id, sent.stream, sent.message.id) == ("order-7", "big", "order-7")
    assert sent.message.headers == {"tenant": {"id": 5}}
    assert sent.uniques == ("id:order-7",)


def test_an_id_and_a_key_of_the_same_text_are_two_things(app: Taskstream, broker: FakeBroker) -> None:
    task = app.task(thumbnail)
    task.apply_async(("a",), task_id="x")
    task.apply_async(("a",), idempotency_key="x")
    handle = task.apply_async(("a",), task_id="x", idempotency_key="id:x")
    assert [sent.uniques for sent in broker.envelopes] == [("id:x",), ("key:x",), ("id:x", "key:id:x")]
    assert handle.id == "x" and broker.envelopes[1].message.id != "x"


def test_a_repeat_returns_the_first(app: Taskstream, broker: FakeBroker) -> None:
    broker.known["key:order 7"] = "first"
    assert app.task(thumbnail).apply_async(("other",), idempotency_key="order 7").id == "first"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task_id": "a b"}, "task_id: 'a b' is not text of 1 to 128"),
        ({"task_id": "x" * 129}, "task_id: "),
        ({"task_id": ""}, "task_id: ''"),
        ({"task_id": 5}, "task_id: 5"),
        ({"idempotency_key": ""}, "idempotency_key: '' is not text of at least one"),
        ({"idempotency_key": b"x"}, "idempotency_key: b'x'"),
        ({"idempotency_key": "ü" * 257}, "idempotency_key: it is 514 bytes long, at most 512"),
        ({"idempotency_key": "\ud800"}, "idempotency_key: '\\ud800' has a lone surrogate"),
        ({"queue": "a b"}, "queue: queue 'a b' is not a valid name"),
        ({"queue": ""}, "queue: queue '' is not a valid name"),
        ({"headers": [1]}, "headers: headers are a mapping"),
        ({"headers": {1: 2}}, "headers: headers are a mapping"),
        ({"headers": {"a": object()}}, "headers: not serialisable as JSON"),
        ({"countdown": -1}, "countdown: -1 is no number of seconds from 0 to"),
        ({"countdown": True}, "countdown: True is no number"),
        ({"countdown": float("nan")}, "countdown: nan is no number"),
        ({"countdown": 1e11}, "countdown: 100000000000.0 is no number of seconds from 0 to 3162240000 (a century)"),
        ({"countdown": timedelta(1)}, "countdown: datetime.timedelta"),
        ({"eta": 5}, "eta: 5 is no datetime"),
        ({"eta": datetime(2030, 1, 1)}, "eta: datetime.datetime(2030, 1, 1, 0, 0) has no time zone: give one"),
        ({"eta": LATER, "countdown": 5}, "eta: give either countdown or eta"),
        ({"expires": datetime(2030, 1, 1)}, "expires: datetime.datetime(2030, 1, 1, 0, 0) has no time zone"),
        (
            {"expires": "soon"},
            "expires: 'soon' is no number of seconds from 0 to 3162240000 (a century), or a datetime",
        ),
        ({"priority": 10}, "priority: 10 is no whole number from 0 (first) to 9"),
        ({"priority": True}, "priority: True is no whole number"),
        ({"ordering_key": ""}, "ordering_key: '' is not text of at least one"),
        ({"ordering_key": "ü" * 257}, "ordering_key: it is 514 bytes long, at most 512"),
        ({"ordering_key": "k", "countdown": 5}, "ordering_key: what has its place in an order takes no countdown"),
        ({"ordering_key": "k", "eta": LATER}, "ordering_key: "),
        ({"args": "a.png"}, "args: 'a.png' is no list or tuple"),
        ({"kwargs": [1]}, "kwargs: [1] is no mapping"),
    ],
)
def test_what_cannot_be_sent_is_named(app: Taskstream, broker: FakeBroker, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        app.task(thumbnail).apply_async(**{"args": ("a",), **options})
    assert str(caught.value).startswith(f"shop.thumbnail: {said}") and "\n" not in str(caught.value)
    assert list(caught.value.errors) == [next(iter(options))]
    assert not broker.envelopes


def test_headers_that_no_worker_could_read_are_refused(app: Taskstream, broker: FakeBroker) -> None:
    deep: Any = 1
    for _ in range(HEADERS_DEPTH + 1):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="headers: headers are nested deeper than"):
        app.task(thumbnail).apply_async(("a",), headers=deep)


def test_a_signature_carries_options(app: Taskstream, broker: FakeBroker) -> None:
    task = app.task(thumbnail)
    plain = task.s("a")
    one = plain.set(task_id="t-1").set(queue="big")
    handles = app.enqueue_many([one, plain])
    assert [sent.uniques for sent in broker.envelopes] == [("id:t-1",), ()]
    assert [sent.stream for sent in broker.envelopes] == ["big", "shop"]
    assert handles[0].id == "t-1" and plain.options != one.options
    with pytest.raises(ValidationError, match="task_id"):
        app.enqueue_many([plain, plain.set(task_id="a b")])
    assert len(broker.envelopes) == 2


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "5"])
def test_a_limit_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="max_length="):
        Taskstream("shop", max_length=wrong)


def test_a_limit_goes_with_every_message(broker: FakeBroker) -> None:
    app = Taskstream("shop", broker="redis://code", max_length=5)
    task = app.task(thumbnail)
    task.delay("a")
    task.apply_async(("a",), task_id="x")
    app.enqueue_many([task.s("a")])
    assert [sent.max_length for sent in broker.envelopes] == [5, 5, 5]


def test_enqueue_many_into_a_full_queue_tells_which_were_sent(broker: FakeBroker) -> None:
    app = Taskstream("shop", broker="redis://code", max_length=700)
    task = app.task(thumbnail)
    broker.room = 600
    with pytest.raises(QueueFull, match=r"\(600 of 1200 messages were sent for certain\)") as caught:
        app.enqueue_many(task.s(str(number)) for number in range(1200))
    assert [handle.id for handle in caught.value.sent] == [sent.message.id for sent in broker.envelopes]
    assert not isinstance(caught.value, BrokerUnavailable)


def test_options_there_are_not_are_named(app: Taskstream, broker: FakeBroker) -> None:
    task: Any = app.task(thumbnail)
    with pytest.raises(
        ValidationError, match=r"^shop\.thumbnail: apply_async: time_limit: is an option of the task"
    ) as caught:
        task.apply_async(("a",), countdown=3, time_limit=5, quue="b")
    assert "time_limit: is an option of the task: @app.task(hard_timeout=…)" in str(caught.value)
    assert "quue: there is no such option, only task_id, idempotency_key, queue, headers" in str(caught.value)
    with pytest.raises(ValidationError, match="set: quue: "):
        task.s("a").set(quue=5)
    with pytest.raises(ValidationError, match=r"headers: 'ts-mine': names beginning with ts- are reserved"):
        task.apply_async(("a",), headers={"ok": 1, "ts-mine": 2})
    assert not broker.envelopes


def test_a_signature_is_sent_by_itself_too(app: Taskstream, broker: FakeBroker) -> None:
    call = app.task(thumbnail).s("a", size=5).set(queue="big", headers={"a": 1})
    handles = [call.delay(), call.apply_async(task_id="x", headers={"b": 2})]
    assert [one.message.id for one in broker.envelopes] == [handle.id for handle in handles]
    assert {(one.stream, one.message.body) for one in broker.envelopes} == {
        ("big", b'{"args":["a"],"kwargs":{"size":5}}')
    }
    assert [one.message.headers for one in broker.envelopes] == [{"a": 1}, {"b": 2}]
    assert handles[1].id == "x"


@pytest.mark.parametrize("wrong", [3, None, [3], ["a"]], ids=repr)
def test_what_is_no_call_is_told(app: Taskstream, broker: FakeBroker, wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"^enqueue_many: .*give "):
        app.enqueue_many(wrong)
    with pytest.raises(ValidationError, match=r"item 1 is <Task shop\.thumbnail>, which is no call"):
        app.enqueue_many([(task := app.task(thumbnail)).s("a"), task])  # type: ignore[list-item]
    assert not broker.envelopes


@pytest.mark.parametrize("wrong", [5, "", None, "a b"], ids=repr)
def test_what_is_no_id_or_timeout_is_told(app: Taskstream, wrong: Any) -> None:
    with pytest.raises(ValidationError, match="is no id of a message"):
        app.AsyncResult(wrong)
    for timeout in ("a", float("nan")):
        with pytest.raises(ValidationError, match="is no number of seconds"):
            app.AsyncResult("id").get(timeout=timeout)  # type: ignore[arg-type]


def test_times_order_and_priority_go_along(app: Taskstream, broker: FakeBroker) -> None:
    task = app.task(thumbnail)
    task.apply_async(("a",), countdown=1.0001, expires=2, priority=0)
    task.apply_async(("a",), eta=LATER, expires=LATER.astimezone(timezone(timedelta(hours=5))))
    task.apply_async(("a",), ordering_key="order 7", headers={"a": 1})
    task.s("a").set(countdown=5, priority=9).set(eta=datetime(1, 1, 1, tzinfo=UTC)).delay()
    first, second, third, fourth = broker.envelopes
    at = int(LATER.timestamp() * 1000)
    assert (first.delay_ms, first.message.expires_in_ms, first.message.priority) == (1001, 2000, 0)
    assert (second.due_ms, second.message.expires_ms, second.message.priority) == (at, at, 5)
    assert (third.ordering_key, third.message.headers) == ("order 7", {"a": 1, "ts-order": "order 7"})
    assert (fourth.delay_ms, fourth.due_ms, fourth.message.priority) == (None, 0, 9)
    assert not any(one.uniques for one in broker.envelopes)


def test_none_is_as_good_as_absent(app: Taskstream, broker: FakeBroker) -> None:
    options: Any = dict.fromkeys(SendOptions.__annotations__)
    app.task(thumbnail).apply_async(("a",), **options)
    (sent,) = broker.envelopes
    assert sent == Envelope("shop", sent.message) and sent.plain and sent.message.headers is None


def picture(path: str, /, size: int = 128, *more: int, deep: bool = False, **named: str) -> None:
    """Every kind of parameter."""


def test_equal_calls_of_a_unique_task_share_a_key(app: Taskstream, broker: FakeBroker) -> None:
    task, other = app.task(unique=True)(picture), app.task(name="shop.other", unique=True)(picture)
    same: list[Any] = [
        task.delay("a"),
        task.delay("a", 128),
        task.delay("a", size=128),
        task.s("a", deep=False).delay(),
        task.apply_async(["a"], {"deep": False, "size": 128}, task_id="x"),
    ]
    different: list[Any] = [
        task.delay("b"),
        task.delay("a", 5),
        task.delay("a", 128, 128),
        task.delay("a", path="a"),
        task.delay("a", deep=True),
        other.delay("a"),
    ]
    digests = [str((one.message.headers or {})["ts-unique"]) for one in broker.envelopes]
    assert len(set(digests[: len(same)])) == 1
    assert len(set(digests)) == 1 + len(different)
    assert [one.uniques[-1] for one in broker.envelopes] == [f"task:{digest}" for digest in digests]
    with pytest.raises(ValidationError, match=r"shop\.picture: size: "):
        task.apply_async(("a", "big"))
    with pytest.raises(ConfigError, match=r"task shop\.thumbnail: unique='yes' cannot be used: give True or False"):
        app.task(unique="yes")(thumbnail)  # type: ignore[call-overload]
