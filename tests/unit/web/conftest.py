"""A web app around events that each test scripts itself, and a broker that remembers what was published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from taskstream import Taskstream
from taskstream.broker import Broker
from taskstream.config import ServerConfig
from taskstream.events import EventRequest, EventResponse
from taskstream.handler import Handler, Subscription
from taskstream.message import Message
from taskstream_webapp import create_app
from taskstream_webapp.settings import WebSettings

Respond = Callable[[EventRequest, Callable[[str, Message], None]], EventResponse]


def echo(request: EventRequest, publish: Callable[[str, Message], None]) -> EventResponse:
    """Publishes the payload with its tracking ids and answers with it."""
    payload = request.payload or b"null"
    publish("orders", Message("m-1", "Order", payload, dict(request.track)))
    return EventResponse(200, {"X-Own": "yes"}, payload)


class FakeEvent:
    """A request event of app ``shop`` whose ``respond`` is the test's."""

    def __init__(self, respond: Respond, method: str = "POST", name: str = "place-order") -> None:
        self.respond = respond
        self.method = method
        self.name = name
        self.app = SimpleNamespace(key="shop.1x0")
        self.label = f"shop.1x0.{name}"
        self.route = f"/api/shop/1x0/{name}"
        self.started = 0

    def start(self) -> None:
        self.started += 1


class FakeBroker(Broker):
    """Keeps what is published, or raises ``failure``; reaches no server."""

    def __init__(self) -> None:
        super().__init__("redis://user:secret@127.0.0.1:1/0")
        self.published: list[tuple[str, Message]] = []
        self.failure: Exception | None = None

    def publish(self, stream: str, message: Message, max_length: int | None = None) -> None:
        if self.failure is not None:
            raise self.failure
        self.published.append((stream, message))

    def ping(self) -> None:
        if self.failure is not None:
            raise self.failure


def ship_order() -> Subscription:
    """The STREAM event of the app."""
    handler = Handler("shop.ship-order", lambda delivery: None, "shop", "1.0", 20)
    return Subscription("shop.1x0.ship-order", "orders", "shipping", {}, default=handler)


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    found = FakeBroker()
    yield found
    found.close()


@pytest.fixture
def make_client(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlaskClient]:
    """``make_client(events, settings, broker)``: a client of the app around these events."""
    monkeypatch.setattr(
        "taskstream_webapp.wiring.document", lambda loaded, tasks_app: {"openapi": "3.0.3", "paths": {}}
    )

    def make(
        *events: FakeEvent,
        settings: WebSettings | None = None,
        broker: Broker = broker,
        tasks_app: Taskstream | None = None,
        **overrides: Any,
    ) -> FlaskClient:
        loaded = SimpleNamespace(
            server=ServerConfig(base=Path.cwd(), **overrides),
            requests=list(events or (FakeEvent(echo),)),
            subscriptions=lambda auto_start: [ship_order()],
        )
        app = create_app(loaded=loaded, broker=broker, settings=settings, tasks_app=tasks_app)  # type: ignore[arg-type]
        return app.test_client()

    return make


@pytest.fixture
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    """A client of an app with one POST event that echoes and one STREAM event."""
    return make_client()
