"""How one call is sent, without a server: the options of apply_async and Signature.set, limits, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from taskstream import BrokerUnavailable, ConfigError, QueueFull, Taskstream, ValidationError
from taskstream.app import core
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.message import HEADERS_DEPTH, Message


class FakeBroker:
    """Keeps what is sent; knows ``known`` keys; has ``room`` for so many messages."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.known: dict[str, str] = {}
        self.room = 10_000

    def publish(self, stream: str, message: Message, max_length: int | None = None) -> None:
        self.envelopes.append(Envelope(stream, message, (), max_length))

    def publish_once(self, stream: str, message: Message, *uniques: str, max_length: int | None = None) -> str:
        self.envelopes.append(Envelope(stream, message, uniques, max_length))
        return next((self.known[one] for one in uniques if one in self.known), message.id)

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
        ValidationError, match=r"^shop\.thumbnail: apply_async: countdown: is not in this release"
    ) as caught:
        task.apply_async(("a",), countdown=3, time_limit=5, quue="b")
    assert "time_limit: is an option of the task: @app.task(hard_timeout=…)" in str(caught.value)
    assert "quue: there is no such option, only task_id, idempotency_key, queue, headers" in str(caught.value)
    with pytest.raises(ValidationError, match="set: eta: "):
        task.s("a").set(eta=5)
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
