"""Health, readiness, metrics, start and stop, the state page and the documents."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from flask.testing import FlaskClient

from taskstream import keys
from taskstream.broker import Broker
from taskstream.errors import BrokerUnavailable, ConfigError
from taskstream.message import Message
from taskstream_webapp.state import age

from .conftest import FakeBroker

STOP = "/mgmt/shop/1x0/ship-order/stop"
WORKER = {
    "name": "box-1",
    "host": "box",
    "pid": 12,
    "started_ms": 1_000,
    "state": "running",
    "concurrency": 100,
    "subscriptions": [{"label": "shop.1x0.ship-order", "stream": "orders", "group": "shipping", "state": "started"}],
}


@pytest.fixture
def real(make_client: Callable[..., FlaskClient], broker_url: str) -> Iterator[tuple[FlaskClient, Broker]]:
    """The app and its broker on a real server."""
    broker = Broker(broker_url)
    yield make_client(broker=broker), broker
    broker.close()


def test_the_probes(client: FlaskClient, broker: FakeBroker) -> None:
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/readyz").json == {"status": "ready"}
    broker.failure = BrokerUnavailable("gone")
    assert client.get("/healthz").status_code == 200
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.content_type == "application/problem+json" and response.headers["Retry-After"]


def test_stop_and_start_are_kept_and_idempotent(real: tuple[FlaskClient, Broker]) -> None:
    client, broker = real
    for action, state in (("stop", "stopped"), ("stop", "stopped"), ("start", "started"), ("start", "started")):
        for send in (client.get, client.post):
            response = send(f"/mgmt/shop/1x0/ship-order/{action}")
            assert response.status_code == 200
            assert response.json == {"event": "shop.1x0.ship-order", "state": state, "workers": []}
        assert broker.state("orders", "shipping") == state


def test_the_answer_names_the_workers_that_obeyed(real: tuple[FlaskClient, Broker], redis_client: redis.Redis) -> None:
    client, broker = real
    broker.announce_worker("box-1", WORKER, 60)
    broker.announce_worker("box-2", {**WORKER, "name": "box-2"}, 60)
    listener = redis_client.pubsub()
    listener.subscribe(keys.CONTROL_CHANNEL)
    assert listener.get_message(timeout=5)

    def answer() -> None:
        while (message := listener.get_message(timeout=5)) is not None and message["type"] != "message":
            continue
        assert message is not None
        asked = json.loads(message["data"])
        assert asked["command"] == "sync" and asked["args"]["state"] == "stopped"
        key = keys.reply(asked["id"])
        redis_client.rpush(key, json.dumps({"worker": "box-1", "ok": True}))
        redis_client.rpush(key, json.dumps({"worker": "box-2", "ok": False, "error": "busy"}))
        redis_client.expire(key, 60)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        response = client.post(STOP)
    finally:
        thread.join(10)
        listener.close()
    assert response.json == {
        "event": "shop.1x0.ship-order",
        "state": "stopped",
        "workers": ["box-1"],
        "failed": [{"worker": "box-2", "error": "busy"}],
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/mgmt/shop/1x0/unknown/stop", 404),
        ("/mgmt/shop/1x0/place-order/stop", 404),
        ("/mgmt/shop/2x0/ship-order/stop", 404),
        ("/mgmt/shop/1x0/ship-order/pause", 404),
        (f"{STOP}?now=1", 400),
    ],
)
def test_what_cannot_be_stopped(client: FlaskClient, path: str, status: int) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"


def test_head_stops_nothing(client: FlaskClient) -> None:
    assert client.head(STOP).status_code == 405


def test_stop_without_a_broker_is_503(make_client: Callable[..., FlaskClient]) -> None:
    broker = Broker("redis://127.0.0.1:1/0")
    assert make_client(broker=broker).post(STOP).status_code == 503
    broker.close()


def test_metrics_count_requests_by_route(real: tuple[FlaskClient, Broker]) -> None:
    client, broker = real
    broker.publish("orders", Message("m-1", "Order", b"{}"))
    redis.Redis.from_url(broker.url).xgroup_create("orders", "shipping", "0")
    broker.announce_worker("box-1", WORKER, 60)
    client.post("/api/shop/1x0/place-order", json={})
    client.post("/api/shop/1x0/place-order", data=b"{}")
    client.open("/nowhere/at-all", method="BREW")
    client.get("/nowhere/else")
    text = client.get("/metrics").get_data(as_text=True)
    route = 'route="/api/shop/1x0/place-order"'
    assert f'taskstream_http_requests_total{{method="POST",{route},status="200"}} 1.0' in text
    assert f'taskstream_http_requests_total{{method="POST",{route},status="415"}} 1.0' in text
    assert f"taskstream_http_request_seconds_count{{{route}}} 2.0" in text
    assert 'taskstream_http_requests_total{method="other",route="unmatched",status="404"} 1.0' in text
    assert "at-all" not in text and "BREW" not in text
    assert "taskstream_broker_up 1.0" in text
    assert 'taskstream_messages{group="shipping",state="waiting",stream="orders"} 2.0' in text
    assert 'taskstream_stream_length{stream="orders"} 2.0' in text
    assert 'taskstream_workers{state="running"} 1.0' in text


def test_metrics_work_without_a_broker(make_client: Callable[..., FlaskClient]) -> None:
    broker = Broker("redis://127.0.0.1:1/0")
    text = make_client(broker=broker).get("/metrics").get_data(as_text=True)
    assert "taskstream_broker_up 0.0" in text and "taskstream_messages" not in text
    broker.close()


def test_the_state_page_shows_streams_groups_and_workers(real: tuple[FlaskClient, Broker]) -> None:
    client, broker = real
    text = client.get("/").get_data(as_text=True)
    assert "no group yet" in text and "No worker is running" in text
    broker.publish("orders", Message("m-1", "Order", b"{}"))
    redis.Redis.from_url(broker.url).xgroup_create("orders", "shipping", "0")
    broker.set_state("orders", "shipping", "stopped")
    broker.announce_worker("box-1", {**WORKER, "reason": "<script>alert(1)</script>", "state": "paused"}, 60)
    response = client.get("/")
    text = response.get_data(as_text=True)
    for expected in ("shop.1x0.ship-order", "orders", "shipping", "stopped", "box-1", "0 of 100"):
        assert expected in text
    assert "<script" not in text and "&lt;script&gt;" in text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src" not in policy
    assert "style=" not in text and "http://" not in text and "https://" not in text


def test_a_broken_key_is_named_beside_the_rest(real: tuple[FlaskClient, Broker]) -> None:
    client, broker = real
    broker.announce_subscriptions({"jobs": ("jobs", "taskstream"), "prod": ("prod", "taskstream")}, 60)
    broker.call("XGROUP", "CREATE", "jobs", "taskstream", "0", "MKSTREAM")
    broker.call("SET", "prod", "x", "EX", 60)
    page = client.get("/").text
    assert "key &#39;prod&#39; holds another kind of value" in page and ">jobs<" in page
    metrics = client.get("/metrics").text
    assert 'taskstream_stream_length{stream="jobs"} 0.0' in metrics and 'stream="prod"' not in metrics


def test_the_state_page_says_that_the_broker_is_away(make_client: Callable[..., FlaskClient]) -> None:
    broker = Broker("redis://:hunter2@127.0.0.1:1/0")
    response = make_client(broker=broker).get("/")
    assert response.status_code == 503 and response.headers["Retry-After"]
    assert "does not answer" in response.get_data(as_text=True)
    assert "hunter2" not in response.get_data(as_text=True)
    broker.close()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0 s"), (119.0, "119 s"), (180.0, "3 min"), (7200.0, "2 h"), (2e5, "2 d")]
)
def test_ages_for_people(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


def test_the_documents_come_from_the_package(client: FlaskClient) -> None:
    assert client.get("/api/openapi.json").json == {"openapi": "3.0.3", "paths": {}}
    response = client.get("/api/docs")
    text = response.get_data(as_text=True)
    assert "https://" not in text and "http://" not in text and "<script>" not in text
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "unsafe-eval" not in policy and "*" not in policy
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"/api/docs/{name}" in text
        asset = client.get(f"/api/docs/{name}")
        assert asset.status_code == 200 and len(asset.get_data()) > 100_000
        asset.close()
    for name in ("index.html", "..%2fsettings.py", "LICENSE"):
        assert client.get(f"/api/docs/{name}").status_code == 404
    for name in ("style.css", "docs.js", "icon.svg"):
        asset = client.get(f"/static/{name}")
        assert asset.status_code == 200
        asset.close()


def test_the_documents_can_be_elsewhere_or_nowhere(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(docs_path="/help/")
    assert client.get("/help").status_code == 200 and client.get("/api/docs").status_code == 404
    client = make_client(docs_path=None)
    assert client.get("/api/docs").status_code == 404 and client.get("/api/openapi.json").status_code == 200
    for taken in ("/", "/metrics", "docs", "/<x>"):
        with pytest.raises(ConfigError, match="docs_path"):
            make_client(docs_path=taken)
