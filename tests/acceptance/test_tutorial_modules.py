"""The tutorial's modules and the example app, loaded and executed in this process: real files, no broker.

The modules under ``tutorial_app/`` stand as somebody would bring them from the system the tutorial describes, with
nothing but the package's name in their imports changed.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskstream import logs
from taskstream.aio import Bridge, threading_backend
from taskstream.errors import ValidationError
from taskstream.events import EventRequest, EventResponse, Loaded, load
from taskstream.handler import Handler
from taskstream.message import Delivery, Message
from taskstream.openapi import document

ROOT = Path(__file__).parents[2]
TRACK = {"request_id": "3bb68f7a-8f18-49b1-9af4-f3caee0eec74"}

Sent = list[tuple[str, Message]]


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    found = Bridge(threading_backend())
    yield found
    found.close(10)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger(logs.ROOT)
    before = (root.level, root.propagate, list(root.handlers))
    stream = io.StringIO()
    logs.configure("DEBUG", "text", stream)
    yield stream
    root.setLevel(before[0])
    root.propagate = before[1]
    root.handlers[:] = before[2]


def load_copy(source: Path, folder: Path, package: str, bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Load a copy of an app in ``folder``, as if it had been started there in a fresh process."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    return load("server.json,config.json", bridge.run)


def post(loaded: Loaded, payload: object) -> tuple[EventResponse, Sent]:
    sent: Sent = []
    request = EventRequest(json.dumps(payload).encode(), {}, TRACK, {})
    return loaded.requests[0].respond(
        request, lambda stream, message, _limit=None: sent.append((stream, message))
    ), sent


def handler_of(loaded: Loaded, event: str) -> Handler:
    found = next(found for found in loaded.subscriptions(True) if found.label.endswith(f".{event}"))
    assert found.default is not None
    assert found.default.start is not None
    found.default.start()
    return found.default


def texts_of(log: io.StringIO) -> list[str]:
    return [line.split(" | ")[3] for line in log.getvalue().splitlines()]


@pytest.fixture
def tutorial(tmp_path: Path, bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    source = Path(__file__).parent / "tutorial_app"
    return load_copy(source, tmp_path, "my_streaming_app", bridge, monkeypatch)


def test_a_valid_text_is_answered_and_published(tutorial: Loaded, log: io.StringIO) -> None:
    answer, sent = post(tutorial, {"text": "valid text"})

    assert (answer.status, json.loads(answer.body)) == (200, {"text": "valid text", "status": "VALID"})
    ((stream, message),) = sent
    assert (stream, message.name, message.headers) == ("my-stream", "MyMessage", TRACK)
    assert json.loads(message.body) == {"text": "valid text", "status": "VALID"}
    assert texts_of(log) == ["START", "Received data", "DONE"]
    received = log.getvalue().splitlines()[1]
    assert "| INFO | my-streaming-app 1.0 send-message " in received
    assert received.endswith(f"| Received data | extra.length=10 | track.request_id={TRACK['request_id']}")


def test_a_short_text_is_answered_with_400_and_not_published(tutorial: Loaded) -> None:
    answer, sent = post(tutorial, {"text": "ab"})
    assert (answer.status, json.loads(answer.body), sent) == (400, {"send-message": "invalid data received"}, [])


def test_a_payload_without_text_is_refused(tutorial: Loaded) -> None:
    with pytest.raises(ValidationError) as caught:
        post(tutorial, {"txt": "valid text"})
    assert sorted(caught.value.errors) == ["text", "txt"]


def test_the_stream_event_saves_what_was_published(tutorial: Loaded, tmp_path: Path, log: io.StringIO) -> None:
    _, ((stream, message),) = post(tutorial, {"text": "valid text"})
    handler = handler_of(tutorial, "process-message")

    value = handler.run(Delivery(message, stream, "process-message-group", "1-0", 1))

    assert handler.dump(value) == b"null"  # the tutorial's step returns nothing
    (saved,) = (tmp_path / "processed_messages").glob("*.json")
    assert json.loads(saved.read_bytes()) == {"text": "valid text", "status": "PROCESSED"}
    assert texts_of(log)[3:] == ["Initializing FileStorage...", "Received message", "Message saved"]
    last = log.getvalue().splitlines()[-1]
    assert f"extra.path=processed_messages/{saved.name}" in last
    assert last.endswith(f"track.request_id={TRACK['request_id']}")


def test_the_tutorials_document(tutorial: Loaded) -> None:
    found = document(tutorial)
    assert found["info"]["title"] == "My Streaming App"
    assert "/api/my-streaming-app/1x0/send-message" in found["paths"]


@pytest.fixture
def parcels(tmp_path: Path, bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    return load_copy(ROOT / "examples" / "parcels", tmp_path, "parcels", bridge, monkeypatch)


def test_a_parcel_passes_both_stages(parcels: Loaded, tmp_path: Path) -> None:
    answer, ((stream, scan),) = post(parcels, {"parcel": "PX-1042", "postcode": "22305", "weight_kg": 2.4})
    assert (answer.status, stream) == (202, "parcel-scans")

    sort = handler_of(parcels, "sort-parcel")
    delivery = Delivery(scan, stream, "sorting", "1-0", 1)
    (successor,) = sort.successors(delivery, sort.run(delivery))
    assert (successor.stream, successor.message.headers) == ("sorted-parcels", TRACK)

    label = handler_of(parcels, "print-label")
    saved = label.run(Delivery(successor.message, successor.stream, "labels", "1-0", 1))

    assert saved == "labels/PX-1042.json"
    found = json.loads((tmp_path / "labels" / "PX-1042.json").read_bytes())
    assert (found["parcel"], found["lines"][:2]) == ("PX-1042", ["PX-1042", "lane 22-L"])


@pytest.mark.parametrize("scan", [{"parcel": "PX-1042", "weight_kg": 40.0}, {"parcel": "../x", "weight_kg": 1}])
def test_a_parcel_that_no_belt_takes_is_refused(parcels: Loaded, scan: dict[str, object]) -> None:
    answer, sent = post(parcels, {"postcode": "22305", **scan})
    assert (answer.status, sent) == (422, [])
    assert "PX-1042" in json.loads(answer.body)["scan-parcel"]
