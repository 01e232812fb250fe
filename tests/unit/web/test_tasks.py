"""Tasks over HTTP: what is sent, what is answered, and every way a request can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from taskstream import BrokerUnavailable, QueueFull, Taskstream, keys
from taskstream.broker import Envelope
from taskstream.handler import QUEUE_GROUP
from taskstream.message import encode_json, new_id
from taskstream.results.base import Failure, Outcome
from taskstream_webapp import create_app
from taskstream_webapp.app import build
from taskstream_webapp.held import Held
from taskstream_webapp.settings import WebSettings
from taskstream_webapp.wiring import gather

from .conftest import FakeBroker
from .test_events import problem


@dataclass
class Parcel:
    """Nested input."""

    name: str
    weight: float = 1.0


class TaskBroker(FakeBroker):
    """A broker that keeps calls; what came under a key before gets the first id."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str] = {}
        self.sent: list[Envelope] = []
        self.states: dict[str, bytes] = {}
        self.live: list[dict[str, Any]] = []

    def send(self, envelope: Envelope) -> str:
        for unique in envelope.uniques:
            if unique in self.first:
                return self.first[unique]
        self.publish(envelope.stream, envelope.message)
        self.first |= dict.fromkeys(envelope.uniques, envelope.message.id)
        self.sent.append(envelope)
        return envelope.message.id

    def call(self, *command: Any) -> Any:
        return self.states.get(command[1])

    def workers(self) -> list[dict[str, Any]]:
        return self.live

    def watch(self, streams: Sequence[str], seconds: int) -> None:
        raise BrokerUnavailable("nobody is there")


def make_tasks(folder: Path) -> Taskstream:
    app = Taskstream("shop", results=f"json://{folder}")

    @app.task
    def thumbnail(path: str, size: int = 128) -> str:
        """Make a picture small.

        Of any picture.
        """
        return f"{path}@{size}"

    @app.task(queue="post")
    def send(parcel: Parcel, when: date, *tags: str, express: bool = False, **more: int) -> date:
        return when

    @app.task
    def anything(value: Any = None) -> Any:
        return value

    return app


@pytest.fixture
def task_broker() -> Iterator[TaskBroker]:
    found = TaskBroker()
    yield found
    found.close()


@pytest.fixture
def tasks(tmp_path: Path, task_broker: TaskBroker) -> Iterator[Taskstream]:
    """An app of tasks whose calls go to ``task_broker``."""
    app = make_tasks(tmp_path / "results")
    app._broker = task_broker
    yield app
    app.close()


@pytest.fixture
def client(tasks: Taskstream) -> FlaskClient:
    return create_app(tasks_app=tasks).test_client()


def outcome(message_id: str, state: str = "SUCCESS", **more: Any) -> Outcome:
    given: dict[str, Any] = {"delivery": 1, "attempts": 1, "worker": "w1", "sent_ms": 1_000, **more}
    return Outcome(message_id, QUEUE_GROUP, "shop.thumbnail", state, started_ms=2_000, finished_ms=3_500, **given)


def test_a_call_is_sent_and_can_be_followed_up(client: FlaskClient, task_broker: TaskBroker) -> None:
    body = {"args": ["a.png"], "kwargs": {"size": 64}}
    response = client.post("/api/tasks/shop.thumbnail", json=body, headers={"X-Track-Request-Id": "caller-1"})
    assert response.status_code == 202
    ((queue, message),) = task_broker.published
    assert response.json == {"id": message.id, "state": "PENDING"}
    assert response.headers["Location"] == f"/api/tasks/{message.id}"
    assert (queue, message.name, json.loads(message.body)) == ("shop", "shop.thumbnail", body)
    assert message.headers is not None and message.headers["request_id"] == "caller-1"
    assert client.get(response.headers["Location"]).json == response.json


def test_arguments_are_read_by_their_annotations(client: FlaskClient, task_broker: TaskBroker) -> None:
    given = {"args": [{"name": "tea"}, "2026-07-02", "a", "b"], "kwargs": {"express": True, "more": 3}}
    assert client.post("/api/tasks/shop.send", json=given).status_code == 202
    ((queue, message),) = task_broker.published
    sent = {**given, "args": [{"name": "tea", "weight": 1.0}, "2026-07-02", "a", "b"]}
    assert (queue, json.loads(message.body)) == ("post", sent)


def test_an_empty_body_is_a_call_without_arguments(client: FlaskClient, task_broker: TaskBroker) -> None:
    assert client.post("/api/tasks/shop.anything").status_code == 202
    assert json.loads(task_broker.published[0][1].body) == {}


def test_options_of_a_call(client: FlaskClient, task_broker: TaskBroker) -> None:
    options = {"queue": "slow", "task_id": "mine", "headers": {"customer": 7}, "priority": None}
    response = client.post("/api/tasks/shop.anything", json={"options": options})
    assert (response.status_code, response.headers["Location"]) == (202, "/api/tasks/mine")
    ((queue, message),) = task_broker.published
    assert (queue, message.id) == ("slow", "mine")
    assert message.headers is not None and message.headers["customer"] == 7
    assert message.headers["request_id"] == response.headers["X-Track-Request-Id"]


def test_options_that_say_when_and_in_which_order(client: FlaskClient, task_broker: TaskBroker) -> None:
    later = {"eta": "2999-01-01T00:00:00+01:00", "expires": 5.5, "priority": 2}
    for options in (later, {"countdown": 3}, {"ordering_key": "k", "expires": "2999-01-01T00:00:00Z"}):
        assert client.post("/api/tasks/shop.anything", json={"options": options}).status_code == 202
    by_eta, by_countdown, in_order = task_broker.sent
    assert (by_eta.due_ms, by_eta.message.expires_in_ms, by_eta.message.priority) == (32472140400000, 5500, 2)
    assert by_countdown.delay_ms == 3000
    assert (in_order.ordering_key, in_order.message.expires_ms) == ("k", 32472144000000)


@pytest.mark.parametrize("header", ["order 17", '"order 17"'])
def test_a_repeat_with_its_key_gets_the_first_id(client: FlaskClient, task_broker: TaskBroker, header: str) -> None:
    first = client.post("/api/tasks/shop.anything", json={"options": {"idempotency_key": "order 17"}})
    again = client.post("/api/tasks/shop.anything", json={}, headers={"Idempotency-Key": header})
    other = client.post("/api/tasks/shop.anything", json={}, headers={"Idempotency-Key": "order 18"})
    assert [answer.status_code for answer in (first, again, other)] == [202] * 3
    assert first.json["id"] == again.json["id"] != other.json["id"]
    assert len(task_broker.published) == 2


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"args": ["a", 1, 2]}, {"args": ["takes 2 positional arguments, but 3 were given."]}),
        ({"kwargs": {"size": 1}}, {"path": ["required, but not given."]}),
        ({"args": ["a"], "kwargs": {"sise": 1}}, {"sise": ["there is no such argument."]}),
        ({"args": ["a", "big"]}, {"size": ["Not a valid integer of at most 64 bits."]}),
        ({"args": "a"}, {"args": ["Not a valid list."]}),
        ({"kwargs": None}, {"kwargs": ["Not a valid object."]}),
        ({"arguments": []}, {"arguments": ["Unknown key: there are only args, kwargs, options."]}),
        ({"args": ["a"], "options": {"eta": "soon"}}, "eta"),
        ({"args": ["a"], "options": {"expires": "soon"}}, "expires"),
        ({"args": ["a"], "options": {"eta": 5}}, "eta"),
        ({"args": ["a"], "options": {"retries": 5}}, "retries"),
        ({"args": ["a"], "options": {"eta": "2999-01-01T00:00:00"}}, "eta"),
        ({"args": ["a"], "options": {"countdown": -1}}, "countdown"),
        ({"args": ["a"], "options": {"countdown": 10**400}}, "countdown"),
        ({"args": ["a"], "options": {"priority": 10}}, "priority"),
        ({"args": ["a"], "options": {"ordering_key": ""}}, "ordering_key"),
        ({"args": ["a"], "options": {"queue": "a b"}}, "queue"),
        ({"args": ["a"], "options": {"queue": 7}}, "queue"),
        ({"args": ["a"], "options": {"task_id": ""}}, "task_id"),
        ({"args": ["a"], "options": {"idempotency_key": "x" * 513}}, "idempotency_key"),
        ({"args": ["a"], "options": {"headers": []}}, "headers"),
        ({"args": ["a"], "options": {"headers": {"ts-then": 1}}}, "headers"),
        ({"args": ["a"], "options": {"headers": {"request_id": "other"}}}, "headers"),
    ],
)
def test_what_does_not_fit_is_400_by_field(
    client: FlaskClient, task_broker: TaskBroker, body: Any, errors: dict[str, Any] | str
) -> None:
    found = problem(client.post("/api/tasks/shop.thumbnail", json=body), 400)
    if isinstance(errors, str):
        assert list(found["errors"]) == ["options"] and list(found["errors"]["options"]) == [errors]
    else:
        assert found["errors"] == errors
    assert task_broker.published == []


@pytest.mark.parametrize(
    "headers", [{"Idempotency-Key": ""}, {"Idempotency-Key": '""'}, {"Idempotency-Key": "é"}, {"Idempotency-Key": "b"}]
)
def test_a_key_that_is_none_or_another_is_400(client: FlaskClient, headers: dict[str, str]) -> None:
    body = {"options": {"idempotency_key": "a"}}
    problem(client.post("/api/tasks/shop.anything", json=body, headers=headers), 400)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("shop.thumbnial", "shop.thumbnail"),
        ("thumbnail", "shop.thumbnail"),
        ("thumbnial", "shop.thumbnail"),
        ("x" * 5000, None),
        ("%00%ff", None),
        ("<script>", None),
    ],
)
def test_an_unknown_task_is_404_with_the_nearest_name(client: FlaskClient, name: str, near: str | None) -> None:
    detail = problem(client.post(f"/api/tasks/{name}", json={}), 404)["detail"]
    assert detail.endswith(f"did you mean {near!r}?" if near else " here")


def test_media_type_size_and_method_are_checked(tasks: Taskstream, task_broker: TaskBroker) -> None:
    client = create_app(tasks_app=tasks, settings=WebSettings(max_body_bytes=100)).test_client()
    path = "/api/tasks/shop.anything"
    problem(client.post(path, data="{}", content_type="text/plain"), 415)
    problem(client.post(path, json={"args": ["x" * 200]}), 413)
    problem(client.put(path, json={}), 405)
    problem(client.post(f"{path}?wait=3", json={}), 400)
    assert task_broker.published == []


def test_the_access_rules_hold(tasks: Taskstream, client: FlaskClient, task_broker: TaskBroker) -> None:
    path = "/api/tasks/shop.anything"
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        problem(client.post(path, json={}, headers=headers), 403)
        problem(client.post("/api/tasks/nothing", json={}, headers=headers), 403)
    guarded = create_app(tasks_app=tasks, settings=WebSettings(token="secret")).test_client()
    problem(guarded.post(path, json={}), 401)
    problem(guarded.get("/api/tasks/some-id"), 401)
    assert task_broker.published == []
    assert guarded.post(path, json={}, headers={"Authorization": "Bearer secret"}).status_code == 202


@pytest.mark.parametrize(
    ("failure", "maybe_sent"),
    [
        (BrokerUnavailable("no"), None),
        (BrokerUnavailable("no reply", maybe_sent=True), True),
        (QueueFull("queue shop is full"), None),
    ],
)
def test_a_broker_that_does_not_take_it_is_503(
    client: FlaskClient, task_broker: TaskBroker, failure: Exception, maybe_sent: bool | None
) -> None:
    task_broker.failure = failure
    response = client.post("/api/tasks/shop.anything", json={})
    assert problem(response, 503).get("maybe_sent") is maybe_sent
    assert response.headers["Retry-After"]


def test_what_became_of_a_call(client: FlaskClient, tasks: Taskstream) -> None:
    assert tasks.results is not None
    done = outcome("done", value=Raw(encode_json("a.png@64")), request_id="r-1")
    lost = outcome("lost", "FAILURE", error=Failure("ValueError", "no picture", "Traceback …"), attempts=3)
    tasks.results.write([done, lost, outcome("odd", sent_ms=2**53)])
    assert client.get("/api/tasks/done").json == {
        "id": "done",
        "state": "SUCCESS",
        "task": "shop.thumbnail",
        "value": "a.png@64",
        "attempts": 1,
        "sent": "1970-01-01T00:00:01.000+00:00",
        "started": "1970-01-01T00:00:02.000+00:00",
        "finished": "1970-01-01T00:00:03.500+00:00",
        "worker": "w1",
        "request_id": "r-1",
    }
    failed = client.get("/api/tasks/lost")
    assert failed.json is not None and failed.headers["Cache-Control"] == "no-store"
    assert failed.json["error"] == {"type": "ValueError", "message": "no picture"} and failed.json["attempts"] == 3
    assert "Traceback" not in failed.get_data(as_text=True)
    assert client.get("/api/tasks/odd").status_code == 200
    assert client.get("/api/tasks/never-sent").json == {"id": "never-sent", "state": "PENDING"}
    for name in ("a b", "x" * 129, "é", "%00"):
        problem(client.get(f"/api/tasks/{name}"), 404)


def test_asking_for_a_task_as_if_it_were_a_call(client: FlaskClient, tasks: Taskstream) -> None:
    name = next(iter(tasks.tasks))
    for path in (f"/api/tasks/{name}", f"/api/tasks/{name}/events"):
        assert problem(client.get(path), 404)["detail"] == f"{name!r} is a task, not the id of a call: POST calls it"
    # But what is known under such an id is told
    assert tasks.results is not None
    tasks.results.write([outcome(name, value=Raw(b"7"))])
    assert client.get(f"/api/tasks/{name}").status_code == 200


def test_what_an_unfinished_call_is_at(client: FlaskClient, task_broker: TaskBroker, tasks: Taskstream) -> None:
    said = {"state": "PROGRESS", "at_ms": 1_000, "info": {"done": 3, "total": 7}, "worker": "w1", "delivery": 2}
    task_broker.states[keys.state("half")] = encode_json(said)
    since = {"since": "1970-01-01T00:00:01.000+00:00", "worker": "w1"}
    half = {"id": "half", "state": "PROGRESS", "info": said["info"], **since}
    assert client.get("/api/tasks/half").json == half
    assert tasks.results is not None
    tasks.results.write([outcome("half", "RETRY", error=Failure("OSError", "away"))])
    assert client.get("/api/tasks/half").json == half  # a later delivery than the one that failed
    tasks.results.write([outcome("half", value=Raw(b"7"), delivery=2)])
    found = client.get("/api/tasks/half").json
    assert found is not None and (found["state"], found["value"]) == ("SUCCESS", 7)
    task_broker.states[keys.state("later")] = encode_json(
        {"state": "SCHEDULED", "at_ms": 0, "due_ms": 9_000_000_000_000}
    )
    found = client.get("/api/tasks/later").json
    assert found is not None and (found["state"], found["due"][:4]) == ("SCHEDULED", "2255")
    task_broker.states[keys.state("odd")] = b"{"
    assert client.get("/api/tasks/odd").json == {"id": "odd", "state": "PENDING"}


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", {"terminate": False, "queue": None}),
        ("?terminate=true", {"terminate": True, "queue": None}),
        ("?terminate=false&queue=slow", {"terminate": False, "queue": "slow"}),
    ],
)
def test_a_call_is_revoked(
    client: FlaskClient, tasks: Taskstream, monkeypatch: pytest.MonkeyPatch, query: str, asked: dict[str, Any]
) -> None:
    revoked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(tasks, "revoke", lambda one, **how: revoked.append((one, how)))
    response = client.delete(f"/api/tasks/some-id{query}")
    assert (response.status_code, response.json) == (202, {"id": "some-id", "state": "PENDING", "revoked": True})
    assert revoked == [("some-id", asked)]
    assert tasks.results is not None
    tasks.results.write([outcome("done", value=Raw(b"7"))])
    done = client.delete(f"/api/tasks/done{query}")
    assert done.json is not None and (done.status_code, done.json["revoked"], done.json["value"]) == (200, False, 7)
    assert len(revoked) == 1


@pytest.mark.parametrize(
    ("path", "status", "headers"),
    [
        ("some-id?terminate=1", 400, {}),
        ("some-id?terminate=true&terminate=true", 400, {}),
        ("some-id?kill=true", 400, {}),
        ("some-id?queue=a%20b", 400, {}),
        ("some-id?terminate=%ff", 400, {}),
        ("a b", 404, {}),
        ("some-id", 403, {"Sec-Fetch-Site": "cross-site"}),
        ("some-id", 503, {}),
    ],
)
def test_a_revoking_that_cannot_be(client: FlaskClient, path: str, status: int, headers: dict[str, str]) -> None:
    problem(client.delete(f"/api/tasks/{path}", headers=headers), status)


def test_results_that_cannot_be_read_are_503(tmp_path: Path, client: FlaskClient, task_broker: TaskBroker) -> None:
    there = {"url": "file:///elsewhere", "host": "other", "mark": "m"}
    task_broker.live = [{"name": "w9", "subscriptions": [{"stream": "shop"}], "results": there}]
    assert "worker w9" in problem(client.get("/api/tasks/some-id"), 503)["detail"]
    none = Taskstream("bare")
    none.task(name="bare.nothing")(do_nothing)
    none._broker = task_broker
    bare = create_app(tasks_app=none).test_client()
    response = bare.post("/api/tasks/bare.nothing", json={}, headers={"Prefer": "wait=5"})
    assert response.status_code == 202 and "Preference-Applied" not in response.headers
    assert "keeps no results" in problem(bare.get(response.headers["Location"]), 503)["detail"]


def do_nothing() -> None:
    return None


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=7", 7),
        ('handling=lenient; x=1, WAIT = "8"', 8),
        ("wait=100000", 30),
        ("wait=3, wait=9", 3),
        ("wait=0", 0),
        ("wait=-1", 0),
        ("wait=soon", 0),
        ("wait=1e9", 0),
        ("nowait=4", 0),
        ("", 0),
    ],
)
def test_a_client_may_wait_for_the_result(
    client: FlaskClient, tasks: Taskstream, monkeypatch: pytest.MonkeyPatch, prefer: str, seconds: int
) -> None:
    waited: list[tuple[Sequence[str], float | None]] = []

    def wait(message_id: str, queues: Sequence[str], timeout: float | None, give_up: Any) -> Outcome | None:
        waited.append((queues, timeout))
        return outcome(message_id, value=Raw(encode_json(7))) if timeout == 5 else None

    monkeypatch.setattr(tasks.outcomes, "wait", wait)
    response = client.post("/api/tasks/shop.anything", json={}, headers={"Prefer": prefer})
    assert response.headers.get("Preference-Applied") == (f"wait={seconds}" if seconds else None)
    assert waited == ([(("shop",), seconds)] if seconds else [])
    assert response.status_code == (200 if seconds == 5 else 202)
    assert response.json is not None and response.json["state"] == ("SUCCESS" if seconds == 5 else "PENDING")
    assert response.headers["Location"] == f"/api/tasks/{response.json['id']}"
    looked = client.get(response.headers["Location"], headers={"Prefer": prefer})
    assert looked.headers.get("Preference-Applied") == (f"wait={seconds}" if seconds else None)
    assert len(waited) == (2 if seconds else 0)


def test_nobody_waits_where_no_thread_may_be_held(tasks: Taskstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.outcomes, "wait", lambda *given: pytest.fail("waited"))
    held = Held(1)
    client = build(gather(None, tasks, lambda coroutine: None), held).test_client()
    with held.one() as got:
        assert got
        response = client.post("/api/tasks/shop.anything", json={}, headers={"Prefer": "wait=5"})
    assert (response.status_code, "Preference-Applied" in response.headers) == (202, False)
    assert held.taken == 0


def test_the_document_has_the_arguments_of_every_task(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").json
    assert document is not None and document["info"]["title"] == "Shop"
    schemas = document["components"]["schemas"]
    post = document["paths"]["/api/tasks/shop.thumbnail"]["post"]
    assert (post["summary"], post["description"]) == ("Make a picture small.", "Of any picture.")
    assert post["requestBody"]["required"] is True
    by_name, by_position = post["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert by_name["required"] == ["kwargs"] and by_position["properties"]["args"]["maxItems"] == 2
    assert by_name["properties"]["kwargs"] == {"$ref": "#/components/schemas/shop.thumbnail.arguments"}
    assert schemas["shop.thumbnail.arguments"] == {
        "type": "object",
        "additionalProperties": False,
        "required": ["path"],
        "properties": {"path": {"type": "string"}, "size": {"type": "integer", "format": "int64", "default": 128}},
    }
    sends = schemas["shop.send.arguments"]
    assert sends["additionalProperties"] == {"type": "integer", "format": "int64"}
    assert sends["properties"]["parcel"] == {"$ref": "#/components/schemas/Parcel"}
    assert sends["properties"]["when"] == {"type": "string", "format": "date"}
    assert {"get"} <= document["paths"]["/api/tasks/{id}"].keys()


def test_events_and_tasks_are_served_and_described_together(
    make_client: Callable[..., FlaskClient], tasks: Taskstream, broker: FakeBroker
) -> None:
    client = make_client(tasks_app=tasks)
    assert client.post("/api/shop/1x0/place-order", json={}).status_code == 200
    assert client.post("/api/tasks/shop.anything", json={}).status_code == 202


NASTY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        [2**63, -(2**200), "\ud800", "\0", "1e999", "9999-12-31T23:59:59+00:00", "2026-07-02", "0001-01-01T00:00:00Z"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
OPTION_NAMES = st.sampled_from(
    ["queue", "countdown", "eta", "expires", "priority", "ordering_key", "headers", "task_id", "idempotency_key", "x"]
)
CALLS = (
    NASTY
    | st.fixed_dictionaries({}, optional={"args": NASTY, "kwargs": NASTY, "options": NASTY})
    | st.fixed_dictionaries(
        {},
        optional={
            "args": st.lists(NASTY, max_size=3),
            "kwargs": st.dictionaries(st.sampled_from(["value", "path", "size", "x"]), NASTY),
            "options": st.dictionaries(OPTION_NAMES, NASTY),
        },
    )
)
BODIES = st.binary(max_size=50) | CALLS.map(lambda value: json.dumps(value).encode())
TASKS = st.sampled_from(["shop.thumbnail", "shop.send", "shop.anything", "nothing"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TASKS, BODIES, st.text(max_size=20), st.text(max_size=20))
def test_no_input_is_a_500(client: FlaskClient, task: str, body: bytes, prefer: str, key: str) -> None:
    headers = {
        name: value
        for name, value in (("Prefer", prefer), ("Idempotency-Key", key))
        if value and value.isprintable() and value.isascii()
    }
    response = client.post(f"/api/tasks/{task}", data=body, content_type="application/json", headers=headers)
    assert response.status_code in (202, 400, 404), response.get_data(as_text=True)
    if response.status_code == 202:
        assert client.get(response.headers["Location"]).status_code == 200
    else:
        problem(response, response.status_code)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"args":' + b"[" * 50_000,
        b'{"args":[' + b'{"a":' * 2_000 + b"1" + b"}" * 2_000 + b"]}",
        b"\xff",
    ],
)
def test_a_body_that_is_none_is_400(client: FlaskClient, body: bytes) -> None:
    problem(client.post("/api/tasks/shop.anything", data=body, content_type="application/json"), 400)


def test_ids_are_new_each_time(client: FlaskClient) -> None:
    ids = {client.post("/api/tasks/shop.anything", json={}).json["id"] for _ in range(3)}
    assert len(ids) == 3 and all(len(one) == len(new_id()) for one in ids)
