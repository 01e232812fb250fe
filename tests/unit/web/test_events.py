"""POST and GET events over HTTP: what reaches the event, what comes back, and every way a request can be wrong."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskstream.errors import BrokerUnavailable, ConfigError, QueueFull, Shutdown, ValidationError
from taskstream.events import EventRequest, EventResponse

from .conftest import FakeBroker, FakeEvent, echo

PATH = "/api/shop/1x0/place-order"


def problem(response: Any, status: int) -> dict[str, Any]:
    """The body of a problem answer, after checking what all of them have."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type == "application/problem+json"
    found: dict[str, Any] = json.loads(response.get_data())
    assert found["status"] == status and found["title"] and found["detail"]
    assert found["request_id"] == response.headers["X-Track-Request-Id"]
    assert "Traceback" not in response.get_data(as_text=True)
    return found


def test_a_valid_post_is_published_and_answered(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.post(PATH, json={"item": "tea"})
    assert response.status_code == 200
    assert response.json == {"item": "tea"}
    assert response.content_type == "application/json"
    assert response.headers["X-Own"] == "yes"
    assert [(stream, json.loads(message.body)) for stream, message in broker.published] == [("orders", {"item": "tea"})]


def test_init_event_runs_when_the_app_is_made(make_client: Callable[..., FlaskClient]) -> None:
    event = FakeEvent(echo)
    make_client(event)
    assert event.started == 1


def test_tracking_ids_are_on_the_answer_and_in_the_message(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.post(PATH, json={}, headers={"X-Track-Request-Id": "caller:1.2-3"})
    assert response.headers["X-Track-Request-Id"] == "caller:1.2-3"
    assert response.headers["X-Event-App"] == "shop.1x0"
    assert broker.published[0][1].headers == {
        "request_id": "caller:1.2-3",
        "operation_id": response.headers["X-Track-Operation-Id"],
        "request_ts": response.headers["X-Track-Request-Ts"],
    }


@pytest.mark.parametrize("given_id", ["", "a b", "x" * 129, "a|b", "é", "x\ty"])
def test_an_ill_formed_request_id_is_replaced(client: FlaskClient, given_id: str) -> None:
    response = client.post(PATH, json={}, headers={"X-Track-Request-Id": given_id})
    assert response.status_code == 200
    found = response.headers["X-Track-Request-Id"]
    assert found != given_id and len(found) == 36


@pytest.mark.parametrize("path", ["/nowhere", "/", "/healthz", PATH, "/mgmt/shop/1x0/nothing/stop", "/static/none"])
def test_every_answer_carries_the_ids(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    for name in ("X-Track-Request-Id", "X-Track-Operation-Id", "X-Track-Request-Ts"):
        assert len(response.headers.getlist(name)) == 1


def test_query_arguments_reach_a_get_event(make_client: Callable[..., FlaskClient]) -> None:
    seen: list[EventRequest] = []

    def respond(request: EventRequest, publish: object) -> EventResponse:
        seen.append(request)
        return EventResponse(200, {}, b"[]")

    client = make_client(FakeEvent(respond, "GET", "list"))
    assert client.get("/api/shop/1x0/list?item=tea&item=caf%C3%A9&empty=").status_code == 200
    assert seen[0].query == {"item": ["tea", "café"], "empty": [""]}
    assert seen[0].payload is None
    assert client.head("/api/shop/1x0/list").get_data() == b""


@pytest.mark.parametrize("query", ["a=%ff", "&".join(f"a{i}=1" for i in range(101)), "%c3=1"])
def test_a_query_that_cannot_be_read_is_400(client: FlaskClient, query: str) -> None:
    problem(client.post(f"{PATH}?{query}", json={}), 400)


def test_a_validation_error_names_the_fields(make_client: Callable[..., FlaskClient], broker: FakeBroker) -> None:
    def respond(request: object, publish: object) -> EventResponse:
        raise ValidationError("item: missing", {"item": ["missing"], "lines": {0: {"size": ["not a number"]}}})

    found = problem(make_client(FakeEvent(respond)).post(PATH, json={}), 400)
    assert found["errors"] == {"item": ["missing"], "lines": {"0": {"size": ["not a number"]}}}
    assert broker.published == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ("application/vnd.shop+json", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json,text/plain", 415),
        ("", 415),
    ],
)
def test_only_json_in_utf8_is_taken(client: FlaskClient, content_type: str, status: int) -> None:
    response = client.post(PATH, data=b"{}", headers={"Content-Type": content_type})
    assert response.status_code == status
    if status == 415:
        problem(response, 415)
        assert response.headers["Accept"] == "application/json"


def test_a_compressed_payload_is_415(client: FlaskClient) -> None:
    problem(
        client.post(PATH, data=b"{}", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}), 415
    )


class Endless(io.RawIOBase):
    """A body without end, as a chunked request may have; counts what was read of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "somebody wants all of it"
        self.taken += size
        return b" " * size


def test_a_large_payload_is_413_and_not_read(make_client: Callable[..., FlaskClient], broker: FakeBroker) -> None:
    client = make_client(max_body_bytes=1000)
    assert client.post(PATH, data=b" " * 998 + b"{}", content_type="application/json").status_code == 200
    problem(client.post(PATH, data=b" " * 999 + b"{}", content_type="application/json"), 413)
    declared = {"CONTENT_LENGTH": "9" * 30, "CONTENT_TYPE": "application/json"}
    problem(client.post(PATH, environ_overrides=declared), 413)
    assert len(broker.published) == 1


def test_a_chunked_payload_is_bounded_too(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(max_body_bytes=1000)
    chunked = {"wsgi.input_terminated": True, "CONTENT_TYPE": "application/json"}
    fits = client.post(PATH, environ_overrides={**chunked, "wsgi.input": io.BytesIO(b'{"a":1}')})
    assert fits.status_code == 200 and fits.json == {"a": 1}
    body = Endless()
    problem(client.post(PATH, environ_overrides={**chunked, "wsgi.input": body}), 413)
    assert body.taken == 1001


def test_a_payload_that_ends_early_is_400(client: FlaskClient, broker: FakeBroker) -> None:
    cut = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "50", "CONTENT_TYPE": "application/json"}
    problem(client.post(PATH, input_stream=io.BytesIO(b"{}"), environ_overrides=cut), 400)
    assert broker.published == []


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "²"])
def test_a_content_length_that_is_no_number_is_400(client: FlaskClient, length: str) -> None:
    problem(client.post(PATH, environ_overrides={"CONTENT_LENGTH": length, "CONTENT_TYPE": "application/json"}), 400)


def test_a_wrong_method_is_405_and_an_unknown_path_404(client: FlaskClient) -> None:
    response = client.get(PATH)
    problem(response, 405)
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    for path in (
        "/api/shop/1x0/unknown",
        f"{PATH}/",
        "/api//shop/1x0/place-order",
        "/api/shop/1x0/%00%ff",
        "/a%0d%0ab",
    ):
        problem(client.post(path, json={}), 404)


@pytest.mark.parametrize(
    ("failure", "maybe_sent"),
    [
        (BrokerUnavailable("broker redis://inside:6379 cannot be reached"), None),
        (BrokerUnavailable("timed out", maybe_sent=True), True),
        (QueueFull("stream orders is full: 10 entries"), None),
        (ConfigError("broker redis://inside:6379 refused the credentials"), None),
    ],
)
def test_without_a_broker_it_is_503_with_retry_after(
    client: FlaskClient, broker: FakeBroker, failure: Exception, maybe_sent: bool | None
) -> None:
    broker.failure = failure
    response = client.post(PATH, json={})
    found = problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    assert found.get("maybe_sent") == maybe_sent
    assert "inside" not in response.get_data(as_text=True)
    broker.failure = None
    assert client.post(PATH, json={}).status_code == 200


@pytest.mark.parametrize("stop", [KeyError("secret-of-mine"), SystemExit(3), GeneratorExit(), Shutdown()])
def test_a_handler_that_raises_is_500_without_internals(
    make_client: Callable[..., FlaskClient], stop: BaseException
) -> None:
    def respond(request: object, publish: object) -> EventResponse:
        raise stop

    response = make_client(FakeEvent(respond)).post(PATH, json={})
    problem(response, 500)
    assert "secret" not in response.get_data(as_text=True)
    assert response.headers["X-Event-App"] == "shop.1x0"


class Lines(logging.Handler):
    """Keeps log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged by Taskstream during the test."""
    handler = Lines()
    logger = logging.getLogger("taskstream")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_mistake_outside_the_events_is_500_and_logged(client: FlaskClient, lines: list[str]) -> None:
    def broken() -> None:
        raise RuntimeError("secret-of-ours")

    client.application.view_functions["healthz"] = broken
    response = client.get("/healthz")
    problem(response, 500)
    assert "secret" not in response.get_data(as_text=True)
    (line,) = lines
    assert response.headers["X-Track-Request-Id"] in line
    assert "Traceback" in line and "secret-of-ours" in line


def test_each_refusal_is_one_log_line(client: FlaskClient, lines: list[str]) -> None:
    sent = [client.get("/a\nb"), client.post(PATH, data=b"x"), client.post(PATH, json={}, headers={"Host": "evil"})]
    assert [response.status_code for response in sent] == [404, 415, 403]
    assert len(lines) == 3
    for response, line in zip(sent, lines, strict=True):
        assert response.headers["X-Track-Request-Id"] in line and "\n" not in line


def test_a_header_with_several_values_is_sent_several_times(make_client: Callable[..., FlaskClient]) -> None:
    def respond(request: object, publish: object) -> EventResponse:
        return EventResponse(201, {"Set-Cookie": ["a=1", "b=2"]}, b"<p>hi", "text/html")

    response = make_client(FakeEvent(respond)).post(PATH, json={})
    assert response.status_code == 201 and response.content_type == "text/html"
    assert response.headers.getlist("Set-Cookie") == ["a=1", "b=2"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "BREW"]),
    tail=st.text(max_size=20),
    query=st.text(max_size=30),
    body=st.binary(max_size=40),
    headers=st.dictionaries(
        st.sampled_from(["HTTP_HOST", "CONTENT_TYPE", "HTTP_ORIGIN", "HTTP_X_TRACK_REQUEST_ID", "HTTP_AUTHORIZATION"]),
        st.text(st.characters(max_codepoint=255), max_size=20),
        max_size=3,
    ),
)
def test_no_input_makes_a_500(
    client: FlaskClient, method: str, tail: str, query: str, body: bytes, headers: dict[str, str]
) -> None:
    environ = {
        **headers,
        "REQUEST_METHOD": method,
        "PATH_INFO": PATH if len(tail) > 10 else f"/{tail}".encode("utf-8", "replace").decode("latin-1"),
        "QUERY_STRING": query.encode("utf-8", "replace").decode("latin-1"),
    }
    response = client.open(method=method, data=body, environ_overrides=environ)
    assert response.status_code < 500 or (response.status_code, environ["PATH_INFO"]) == (503, "/")
    assert response.headers["X-Track-Request-Id"]
