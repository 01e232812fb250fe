"""Streams with a limit: clients hear 503, and a stage waits for room in the next one instead of losing or dropping."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import patience
from helpers import OwnServer, Started, eventually
from proxy import FaultyProxy

from taskstream.broker import Broker, publisher
from taskstream.connection import Profile
from taskstream.message import Message, new_id
from taskstream_webapp import create_app

HEAD = '''"""An event."""
import os
from pathlib import Path
from taskstream.app.api import event_api
from taskstream.app.context import EventContext
from .model import Sack

def note(word, sack):
    with open(Path(os.environ["MILL_NOTES"]), "a") as file:
        file.write(f"{word} {sack.number}\\n")
'''
MODULES = {
    "__init__": "",
    "model": "from taskstream.dataobjects import dataobject\n\n@dataobject\nclass Sack:\n    number: int\n",
    "pour": HEAD
    + """
__steps__ = ["pour"]
__api__ = event_api(payload=(Sack, "a sack"), responses={200: (Sack, "taken")})
def pour(sack: Sack, context: EventContext) -> Sack:
    return sack
""",
    "grind": HEAD
    + """
__steps__ = ["grind"]
def grind(sack: Sack, context: EventContext) -> Sack:
    note("grind", sack)
    return sack
""",
    "bake": HEAD
    + """
__steps__ = ["bake"]
def bake(sack: Sack, context: EventContext) -> None:
    note("bake", sack)
""",
    "turn": HEAD
    + """
__steps__ = ["turn"]
def turn(sack: Sack, context: EventContext) -> Sack | None:
    note("turn", sack)
    return Sack(sack.number - 1) if sack.number else None
""",
}
CONFIG = {
    "app": {"name": "mill", "version": "1.0"},
    "events": {
        "pour": {"type": "POST", "write_stream": {"name": "grain", "max_length": 5}},
        "grind": {
            "type": "STREAM",
            "read_stream": {"name": "grain", "consumer_group": "grinding"},
            "write_stream": {"name": "flour", "max_length": 3},
        },
        "bake": {"type": "STREAM", "read_stream": {"name": "flour", "consumer_group": "baking"}},
        "turn": {
            "type": "STREAM",
            "read_stream": {"name": "wheel", "consumer_group": "turning"},
            "write_stream": {"name": "wheel", "max_length": 1},
        },
    },
}


class Mill:
    """The app in a folder, its broker and what its handlers noted."""

    def __init__(self, folder: Path, url: str, start: Callable[..., Started]) -> None:
        self.folder = folder
        self.url = url
        self.broker = Broker(url)
        self._start = start
        (folder / "mill").mkdir()
        for name, source in MODULES.items():
            (folder / "mill" / f"{name}.py").write_text(source)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "server.json").write_text(json.dumps({"streams": {"connection_str": url}}))
        self.files = f"{folder / 'server.json'},{folder / 'config.json'}"

    def pool(self) -> Started:
        """Start one worker process."""
        return self._start(
            *("worker", "--config-files", self.files, "--processes", "1", "--concurrency", "4", "--lease", "2"),
            cwd=self.folder,
            env={"MILL_NOTES": str(self.folder / "notes")},
        )

    def put(self, stream: str, *numbers: int) -> None:
        self.broker.publish_many(
            (stream, Message(new_id(), "Sack", json.dumps({"number": number}).encode())) for number in numbers
        )

    def notes(self, word: str) -> Counter[int]:
        path = self.folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.split()[0] == word)

    def length(self, stream: str) -> int:
        return self.broker.stream_length(stream)


@pytest.fixture
def mill(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Iterator[Mill]:
    found = Mill(tmp_path, broker_url, start_cli)
    yield found
    found.broker.close()


def test_a_client_of_a_full_stream_is_told_when_to_come_back(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mill.folder)
    monkeypatch.syspath_prepend(str(mill.folder))
    client = create_app(mill.files).test_client()

    def pour(number: int) -> tuple[int, dict[str, object], str | None]:
        answer = client.post("/api/mill/1x0/pour", json={"number": number})
        return answer.status_code, answer.get_json(), answer.headers.get("Retry-After")

    assert [pour(number)[0] for number in range(5)] == [200] * 5
    status, problem, retry_after = pour(5)
    assert (status, retry_after) == (503, "2")
    assert problem["detail"] == (
        "stream grain is full: it has 5 entries and its max_length is 5; try again when workers have caught up"
    )
    assert "maybe_sent" not in problem and mill.length("grain") == 5
    mill.broker.client.xtrim("grain", maxlen=4, approximate=False)
    assert pour(6)[0] == 200


def test_a_client_hears_soon_that_the_broker_is_silent(
    mill: Mill, own_valkey: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mill.folder)
    monkeypatch.syspath_prepend(str(mill.folder))
    monkeypatch.setattr(publisher, "PRODUCER", Profile(socket_timeout=0.3, max_connections=2, connect_timeout=0.3))
    proxy = FaultyProxy(own_valkey.url)
    monkeypatch.setenv("TASKSTREAM_BROKER", proxy.url)
    try:
        client = create_app(mill.files).test_client()
        assert client.post("/api/mill/1x0/pour", json={"number": 1}).status_code == 200
        proxy.drop(requests=False)
        answer = client.post("/api/mill/1x0/pour", json={"number": 2})
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "2"
        assert answer.content_type == "application/problem+json" and answer.get_json()["maybe_sent"] is True
        proxy.refuse()
        answer = client.post("/api/mill/1x0/pour", json={"number": 3})
        assert answer.status_code == 503 and "maybe_sent" not in answer.get_json()
        assert answer.get_json()["detail"] == "the broker cannot be reached; nothing was sent"
    finally:
        proxy.close()


def test_a_stage_waits_for_room_in_the_next_one(mill: Mill) -> None:
    # Given a stage that nobody works off
    mill.broker.set_state("flour", "baking", "stopped")
    pool = mill.pool()
    # When more comes than fits
    mill.put("grain", *range(10))
    eventually(lambda: mill.notes("grind").total() == 10, patience(20), lambda: pool.output)
    eventually(lambda: mill.length("flour") == 3, patience(10), lambda: pool.output)
    eventually(lambda: "Next stage is full, waiting for room" in pool.output, patience(10))
    # Then what does not fit stays held in the stage before
    assert mill.length("grain") >= 7 and mill.length("flour") == 3
    # And goes on as soon as there is room: all of it, once
    mill.broker.set_state("flour", "baking", "started")
    eventually(lambda: mill.notes("bake").total() == 10, patience(20), lambda: pool.output)
    assert mill.notes("bake") == mill.notes("grind") == Counter(range(10))
    eventually(lambda: mill.length("grain") == mill.length("flour") == 0, patience(10))
    assert pool.output.count("Next stage is full") == 1


def test_a_clean_stop_runs_nothing_twice_for_a_full_stream(mill: Mill) -> None:
    mill.broker.set_state("flour", "baking", "stopped")
    pool = mill.pool()
    mill.put("grain", *range(10))
    eventually(lambda: mill.notes("grind").total() == 10, patience(20), lambda: pool.output)
    eventually(lambda: "Next stage is full" in pool.output, patience(10), lambda: pool.output)
    # When it stops, what waits goes over the limit
    pool.send(signal.SIGTERM)
    assert pool.wait(patience(20)) == 0, pool.output
    assert (mill.length("grain"), mill.length("flour")) == (0, 10)


def test_a_stage_that_writes_what_it_reads_never_waits_for_itself(mill: Mill) -> None:
    pool = mill.pool()
    mill.put("wheel", 5, 6, 7)
    eventually(lambda: mill.notes("turn").total() == 21, patience(20), lambda: pool.output)
    assert mill.notes("turn") == Counter([*range(6), *range(7), *range(8)])
    eventually(lambda: mill.length("wheel") == 0, patience(10), lambda: pool.output)
