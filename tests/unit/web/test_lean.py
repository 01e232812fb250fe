"""The short way of exact paths: it answers what Flask's own way answers, which is taken where somebody hooked in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request, request_started
from flask.testing import FlaskClient

from taskstream import Taskstream, logs
from taskstream.errors import BrokerUnavailable, ValidationError
from taskstream.events import EventRequest, EventResponse
from taskstream_webapp.settings import WebSettings
from taskstream_webapp.tracking import REQUEST, of_request

from .conftest import FakeBroker, FakeEvent, echo

PATH = "/api/shop/1x0/place-order"
OF_EACH = ("X-Track-Request-Id", "X-Track-Operation-Id", "X-Track-Request-Ts")


def replies(request: EventRequest, publish: object) -> EventResponse:
    """What the payload asks for."""
    match request.payload:
        case b'"cookies"':
            return EventResponse(200, {"Set-Cookie": ["a=1", "b=2"], "X-One": "1"}, b"{}")
        case b'"own type"':
            return EventResponse(299, {"content-type": "text/x-own", "CONTENT-LENGTH": "7"}, b"{}", "text/plain")
        case b'"empty"':
            return EventResponse(204, {}, b"")
        case b'"invalid"':
            raise ValidationError("item: no", {"item": ["no"]})
        case b'"away"':
            raise BrokerUnavailable("away", maybe_sent=True)
        case b'"broken"':
            raise RuntimeError("secret")
    return EventResponse(200, {"X-Own": "é"}, request.payload or b"null")


def hook(app: Flask) -> None:
    """Have every request go Flask's way."""
    app.before_request(lambda: None)


def told(client: FlaskClient, **said: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status line, headers and body of one POST, but for the ids and times of each."""
    answer = client.post(PATH, **said)
    headers = [(name, "" if name in OF_EACH else value) for name, value in answer.headers]
    known = answer.headers["X-Track-Request-Id"].encode()
    return answer.status, headers, answer.get_data().replace(known, b"ID")


@pytest.mark.parametrize(
    "said",
    [
        {"json": {"item": "tea"}},
        {"json": "cookies"},
        {"json": "own type"},
        {"json": "empty"},
        {"json": "invalid"},
        {"json": "away"},
        {"json": "broken"},
        {"data": b""},
        {"data": b"{}", "content_type": "text/plain"},
        {"data": b"{}", "content_type": "Application/JSON; charset=UTF-8"},
        {"data": b"{}", "content_type": "application/json", "headers": {"Content-Encoding": "gzip"}},
        {"data": b"{}", "content_type": "application/json", "headers": {"Content-Encoding": "identity"}},
        {"json": {}, "headers": {"Sec-Fetch-Site": "cross-site"}},
        {"json": {}, "headers": {"Host": "shop.example"}},
        {"json": {}, "query_string": "%ff"},
        {"data": b"x" * 65, "content_type": "application/json"},
    ],
    ids=str,
)
def test_both_ways_answer_the_same(make_client: Callable[..., FlaskClient], said: dict[str, Any]) -> None:
    settings = WebSettings(max_body_bytes=64)
    short, long = make_client(FakeEvent(replies), settings=settings), make_client(FakeEvent(replies), settings=settings)
    hook(long.application)
    assert told(short, **said) == told(long, **said)


def test_a_call_of_a_task_is_answered_the_same_both_ways(make_client: Callable[..., FlaskClient]) -> None:
    found = []
    for hooked in (False, True):
        tasks_app = Taskstream("shop", broker="memory://lean")

        @tasks_app.task(name="note")
        def note(text: str) -> None: ...

        client = make_client(tasks_app=tasks_app)
        if hooked:
            hook(client.application)
        for said in ({"kwargs": {"text": "a"}}, {"kwargs": {"text": 1}}, {"nonsense": 1}, {"options": {"eta": 1}}):
            answer = client.post("/api/tasks/note", json=said, environ_overrides={"SCRIPT_NAME": "/at"})
            place = answer.headers.get("Location")
            if place is not None:
                assert place == f"/at/api/tasks/{answer.json['id']}"  # type: ignore[index]
            found.append((answer.status, [name for name, _ in answer.headers], answer.content_type))
    assert found[: len(found) // 2] == found[len(found) // 2 :]


def test_the_short_way_makes_no_request_context(make_client: Callable[..., FlaskClient]) -> None:
    seen: list[bool] = []

    def respond(asked: EventRequest, publish: object) -> EventResponse:
        seen.append(bool(request))
        return EventResponse(200, {}, b"{}")

    client = make_client(FakeEvent(respond))
    assert client.post(PATH, json={}).status_code == 200
    hook(client.application)
    assert client.post(PATH, json={}).status_code == 200
    assert seen == [False, True]


def test_hooks_that_others_add_are_called(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client()
    seen: list[str] = []

    @client.application.before_request
    def before() -> None:
        seen.append(request.path)

    @client.application.after_request
    def after(response: Any) -> Any:
        response.headers["X-Other"] = "yes"
        return response

    answer = client.post(PATH, json={})
    assert answer.status_code == 200 and answer.headers["X-Other"] == "yes" and seen == [PATH]


def test_signals_that_others_connect_to_are_sent(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client()
    seen: list[object] = []

    def listener(sender: object, **_: object) -> None:
        seen.append(sender)

    client.post(PATH, json={})
    with request_started.connected_to(listener):
        client.post(PATH, json={})
    assert seen == [client.application]


def test_lines_of_other_loggers_name_the_request_while_it_is_answered(make_client: Callable[..., FlaskClient]) -> None:
    said: list[logs.Running | None] = []

    def respond(asked: EventRequest, publish: object) -> EventResponse:
        said.append(of_request())
        return EventResponse(200, {}, b"{}")

    client = make_client(FakeEvent(respond))
    answer = client.post(PATH, json={})
    assert said[0] is not None and said[0][1]["track.request_id"] == answer.headers["X-Track-Request-Id"]
    assert REQUEST.get() is None and of_request() is None


def test_what_fails_on_the_short_way_is_counted_once(
    make_client: Callable[..., FlaskClient], broker: FakeBroker
) -> None:
    client = make_client(FakeEvent(echo))
    assert client.post(PATH, data=b"{}", content_type="text/plain").status_code == 415
    assert broker.published == []
    line = f'taskstream_http_requests_total{{method="POST",route="{PATH}",status="415"}} 1.0'
    assert line in client.get("/metrics").get_data(as_text=True)
