"""Tasks without an app of their own, and tasks known by their name only."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any

import pytest

from taskstream import ConfigError, Task, Taskstream, shared_task
from taskstream import ValidationError as Invalid
from taskstream.app import registry
from taskstream.broker import Envelope
from taskstream.message import Message


class Kept(Taskstream):
    """Keeps what it would send."""

    def __init__(self, name: str) -> None:
        super().__init__(name, broker="redis://nowhere")
        self.kept: list[tuple[str, Message]] = []

    def send(self, envelope: Envelope) -> str:
        self.kept.append((envelope.stream, envelope.message))
        return envelope.message.id


@pytest.fixture(autouse=True)
def _no_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of what other tests made."""
    monkeypatch.setattr(registry, "_apps", weakref.WeakValueDictionary())
    monkeypatch.setattr(registry, "_shared", weakref.WeakValueDictionary())
    monkeypatch.setattr(registry, "_current", None)


def test_a_shared_task_comes_before_any_app_and_is_the_current_ones() -> None:
    @shared_task
    def resize(path: str, size: int = 1) -> str:
        return f"{path}@{size}"

    @shared_task(queue="mail", bind=True, max_retries=9)
    def post(self: Task, to: str) -> str:
        return f"{self.name} {to}"

    shop, store = Kept("shop"), Kept("store")
    assert {"shop.resize", "shop.post"} <= set(shop.tasks) and {"store.resize", "store.post"} <= set(store.tasks)
    # When: the app made last is current
    resize.delay("a", size=2)
    assert [(queue, message.name, message.body) for queue, message in store.kept] == [
        ("store", "store.resize", b'{"args":["a"],"kwargs":{"size":2}}')
    ]
    # Or: another one was chosen
    shop.set_current()
    resize.s("b").delay()
    post.apply_async(("c",))
    assert [(queue, message.name) for queue, message in shop.kept] == [("shop", "shop.resize"), ("mail", "shop.post")]
    assert resize("d") == "d@1" and post("e") == "shop.post e"
    assert post.settings.max_retries == 9 and resize.queue == "shop"


def test_a_shared_task_made_later_is_every_apps() -> None:
    shop, store = Kept("shop"), Kept("store")

    @shared_task(name="resize")
    def resize(path: str) -> str:
        return path

    assert shop.tasks["resize"].queue == "shop" and store.tasks["resize"].queue == "store"
    with pytest.raises(ConfigError, match=r"app shop has two tasks named shop\.resize"):

        @shop.task(name="shop.resize")
        def one() -> None: ...

        @shared_task(name="shop.resize")
        def other() -> None: ...


def test_a_shared_task_without_an_app_says_so_only_when_it_needs_one() -> None:
    @shared_task
    def resize(path: str) -> str:
        """Doc."""
        return path

    assert resize("a") == "a" and resize.__doc__ == "Doc." and repr(resize) == "<SharedTask resize>"
    assert list(inspect.signature(resize).parameters) == ["path"]
    assert not hasattr(resize, "pytestmark") and not hasattr(resize, "__deepcopy__")
    with pytest.raises(ConfigError, match="shared task resize: there is no app yet"):
        resize.delay("a")


def test_shared_tasks_are_refused_like_any() -> None:
    with pytest.raises(ConfigError, match="is a class"):
        shared_task(dict)
    with pytest.raises(ConfigError, match="@shared_task has no option max_retry: there are name"):
        shared_task(max_retry=1)  # type: ignore[call-overload]


def test_an_app_that_nobody_holds_is_not_current() -> None:
    first = Kept("first")
    Kept("second")
    gc.collect()
    assert registry.current_app() is first


# -- by name -------------------------------------------------------------------------------------------------


def test_a_task_is_sent_by_its_name() -> None:
    app = Kept("shop")
    handle = app.send_task("other.thumbnail", ["a.png"], {"size": None}, headers={"a": 1})
    (queue, message) = app.kept[0]
    assert (queue, message.name, message.body) == (
        "shop",
        "other.thumbnail",
        b'{"args":["a.png"],"kwargs":{"size":null}}',
    )
    assert handle.id == message.id and message.headers == {"a": 1}
    app.send_task("other.thumbnail", queue="images", task_id="mine")
    assert (app.kept[1][0], app.kept[1][1].id, app.kept[1][1].body) == ("images", "mine", b"{}")


def test_a_task_that_is_known_by_its_name_is_checked() -> None:
    app = Kept("shop")

    @app.task(queue="images")
    def thumbnail(path: str) -> None: ...

    app.send_task("shop.thumbnail", ("a",))
    assert app.kept[0][0] == "images"
    with pytest.raises(Invalid, match=r"shop\.thumbnail: path: Not a valid string"):
        app.send_task("shop.thumbnail", (1,))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("a b",), "send_task: task 'a b' is not a valid name"),
        ((5,), "send_task: task 5 is not a valid name"),
        (("t", "text"), "t: args: 'text' is no list or tuple of arguments"),
        (("t", (), {1: 2}), "t: kwargs: {1: 2} is no mapping of names"),
        (("t", ({1},)), "t: args.0: A set is no JSON value"),
        (("t", (2**70,)), "t: args.0: Not a value that JSON can carry"),
    ],
)
def test_what_cannot_be_sent_by_name_is_refused(call: tuple[Any, ...], said: str) -> None:
    app = Kept("shop")
    with pytest.raises(Invalid) as caught:
        app.send_task(*call)
    assert said in str(caught.value) and not app.kept


def test_options_that_there_are_not_are_refused_by_name() -> None:
    app = Kept("shop")
    with pytest.raises(Invalid, match="t: apply_async: exchange: there is no such option"):
        app.send_task("t", exchange="x")
    assert not app.kept
