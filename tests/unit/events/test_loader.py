"""Loading an app: what it becomes, and one clear line for every mistake in a module."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.errors import ConfigError
from taskstream.events import load

from .conftest import MakeApp

POST = {"type": "POST", "write_stream": {"name": "out"}}
STREAM = {"type": "STREAM", "read_stream": {"name": "out", "consumer_group": "g"}}
STEP = """
__steps__ = ["step"]
def step(value: In, context: EventContext) -> Out:
    return Out(value.text)
"""


def test_names_routes_and_labels(make_app: MakeApp) -> None:
    loaded = make_app(
        {"do_post": STEP, "do_get": '__steps__ = ["step"]\ndef step(value: None): return 1', "do_stream": STEP},
        {"do-post": POST, "do.get": {"type": "GET"}, "do-stream": STREAM},
        version="2.1",
    )
    app = loaded.apps[0]
    assert app.path_version == "2x1"
    assert app.key == f"{app.name.replace('-', '_')}.2x1"
    post, get = loaded.requests
    assert (post.method, post.route) == ("POST", f"/api/{app.name}/2x1/do-post")
    assert (get.method, get.route) == ("GET", f"/api/{app.name}/2x1/do.get")
    assert post.label == f"{app.name}.2x1.do-post"
    (subscription,) = loaded.subscriptions(auto_start=False)
    assert (subscription.label, subscription.stream, subscription.group) == (f"{app.name}.2x1.do-stream", "out", "g")
    assert subscription.auto_start is False
    assert subscription.default is not None
    assert subscription.default.name == f"{app.name}.do-stream"
    assert subscription.handler_for("anything") is subscription.default


def test_settings_reach_handler_and_subscription(make_app: MakeApp) -> None:
    stream = {"timeout": 2, "batch_size": 5, "max_retries": 0, "max_deliveries": 7, "retry_backoff": 0.5}
    stream |= {"throttle_ms": 20, "concurrency": 9, "delay_auto_start": 1.5}
    loaded = make_app({"work": STEP, "plain": STEP}, {"work": {**STREAM, "config": {"stream": stream}}})
    (subscription,) = loaded.subscriptions(True)
    assert (subscription.batch_size, subscription.concurrency, subscription.throttle) == (5, 9, 0.02)
    assert subscription.delay_auto_start == 1.5
    assert subscription.default is not None
    settings = subscription.default.settings
    assert (settings.timeout, settings.max_retries, settings.max_deliveries, settings.retry_backoff) == (2, 0, 7, 0.5)


def test_defaults_of_an_events_settings(make_app: MakeApp) -> None:
    (subscription,) = make_app({"work": STEP}, {"work": STREAM}).subscriptions(True)
    assert subscription.default is not None
    settings = subscription.default.settings
    assert (settings.timeout, settings.max_retries, settings.retry_for) == (None, 3, (Exception,))


@pytest.mark.parametrize(
    ("source", "event", "expected"),
    [
        (None, POST, "was not found; it must be importable"),
        ("", POST, "has no __steps__"),
        ("__steps__ = []", POST, "__steps__ must be a list of names"),
        ("__steps__ = 'step'", POST, "__steps__ must be a list of names"),
        ("__steps__ = ['stp']", POST, "__steps__ names 'stp', but the module has no such function"),
        ("__steps__ = ['In', 'x']\nx = 5", POST, "x is not a function but int"),
        ("__steps__ = ['step']\ndef step(): pass", POST, "step step must take the value as its first parameter"),
        ("__steps__ = ['step']\ndef step(value: Nowhere): pass", POST, "name 'Nowhere' is not defined"),
        ("__steps__ = ['step']\ndef step(value: 'Nowhere'): pass", POST, "'Nowhere' of the first parameter of step"),
        ("__steps__ = ['step']\ndef step(value: complex): pass", POST, "type complex is not supported"),
        ("__steps__ = ['step']\ndef step(value: complex): pass", STREAM, "type complex is not supported"),
        ("__steps__ = ['step']\ndef step(value: In, context, more): pass", POST, "step needs more, which is no query"),
        ("import nowhere_at_all", POST, "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def broken(:", POST, "cannot be imported: SyntaxError"),
        ("raise RuntimeError('two\\nlines')", POST, "cannot be imported: RuntimeError: two lines"),
        (STEP + "__api__ = {}", POST, "__api__ is not what event_api() returns but dict"),
        (STEP + "__api__ = event_api(payload=complex)", POST, "type complex is not supported"),
        (STEP + "__api__ = event_api(payload=(In, 5))", POST, "payload must be a type or"),
        (STEP + "__api__ = event_api(responses={'200': In})", POST, "'200' in responses is no HTTP status"),
        (STEP + "__api__ = event_api(responses={200: complex})", POST, "type complex is not supported"),
        (STEP + "__api__ = event_api(query_args=[5])", POST, "query_args must hold"),
        (STEP + "__api__ = event_api(query_args=['a', 'a'])", POST, "query argument 'a' is given twice"),
        (STEP + "__api__ = event_api(query_args=[('a', In)])", POST, "query argument 'a': type is not supported"),
        (STEP + "__api__ = event_api(query_args=[('a', complex)])", POST, "a: type complex is not supported"),
        (STEP + "def __postprocess__(v, c, r): pass", STREAM, "__postprocess__ is for requests"),
        (STEP + "def __preprocess__(v, c, r): pass", STREAM, "__preprocess__ is for requests"),
        (STEP + "__postprocess__ = 5", POST, "__postprocess__ is not a function"),
        (STEP + "__init_event__ = 5", STREAM, "__init_event__ is not a function"),
    ],
)
def test_mistakes_in_a_module_are_one_line(make_app: MakeApp, source: str | None, event: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_app({} if source is None else {"my_event": source}, {"my-event": event})
    text = str(caught.value)
    assert "\n" not in text
    assert expected in text
    assert text.startswith("event 'my-event': module test_app_")


def test_an_import_error_names_the_line(make_app: MakeApp) -> None:
    with pytest.raises(ConfigError, match=r"work\.py:\d+\)"):
        make_app({"work": "\n\n1 / 0\n"}, {"work": POST})


@pytest.mark.parametrize(("name", "expected"), [("1st", "cannot be a module"), ("ok", "")])
def test_names_that_are_no_python_names(make_app: MakeApp, name: str, expected: str) -> None:
    if not expected:
        make_app({name: STEP}, {name: POST})
        return
    with pytest.raises(ConfigError, match=expected):
        make_app({}, {name: POST})


def test_two_events_in_one_group_are_refused(make_app: MakeApp) -> None:
    with pytest.raises(ConfigError, match="share consumer group 'g' of stream 'out'"):
        make_app({"one": STEP, "two": STEP}, {"one": STREAM, "two": STREAM})


def test_what_is_kept_cannot_be_limited(make_app: MakeApp) -> None:
    keeps = {**STREAM, "config": {"stream": {"retention": "2h"}}}
    assert make_app({"a": STEP}, {"a": keeps}).subscriptions(True)[0].retention == 7200
    writer = {"type": "POST", "write_stream": {"name": "out", "max_length": 5}}
    with pytest.raises(ConfigError, match="stream 'out' cannot have both: the retention that event"):
        make_app({"a": STEP, "b": STEP}, {"a": keeps, "b": writer})


def test_no_file_is_named() -> None:
    with pytest.raises(ConfigError, match="--config-files"):
        load("", lambda coroutine: None)
