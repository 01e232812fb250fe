"""``taskstream call``: what is sent, what is printed, and the exit status of everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from taskstream import BrokerUnavailable, Taskstream
from taskstream.app import core, loading
from taskstream.broker import Envelope
from taskstream.cli.main import main
from taskstream.handler import QUEUE_GROUP
from taskstream.results.base import Failure, Outcome


class FakeBroker:
    """Keeps what is sent; with ``run``, its outcome is in the store at once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[Envelope] = []
        self.failure: Exception | None = None
        self.run: Callable[[str], None] = lambda message_id: None

    def send(self, envelope: Envelope) -> str:
        if self.failure is not None:
            raise self.failure
        self.sent.append(envelope)
        self.run(envelope.message.id)
        return envelope.message.id

    def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The state of what is to come later is told beside it."""
        return [None] * len(commands)

    def close(self) -> None:
        pass


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBroker:
    """Whatever app of this process sends by it."""
    found = FakeBroker("redis://nowhere")
    monkeypatch.setattr(core, "Broker", lambda url: found)
    monkeypatch.setenv("TASKSTREAM_BROKER", found.url)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Taskstream:
    """What ``-A shop:app`` finds; its module prints something."""
    app = Taskstream("shop", results=f"json://{tmp_path}/results")

    @app.task
    def order(item: str, when: date | None = None) -> str:
        return item

    def load(target: str) -> Taskstream:
        print("shop is open")
        return app

    monkeypatch.setattr(loading, "load_app", load)
    return app


Capture = pytest.CaptureFixture[str]


def call(*arguments: str, by: tuple[str, ...] = ("-A", "shop:app")) -> int:
    return main(["call", *arguments, *by])


def finish(app: Taskstream, broker: FakeBroker, state: str, **more: Any) -> None:
    """Let calls end so."""
    store = app.results
    assert store is not None

    def run(message_id: str) -> None:
        given: dict[str, Any] = {"delivery": 1, "attempts": 1, "sent_ms": 1, "started_ms": 2, "finished_ms": 3, **more}
        store.write([Outcome(message_id, QUEUE_GROUP, "shop.order", state, worker="w1", **given)])

    broker.run = run


@pytest.mark.parametrize("name", ["shop.order", "order"])
def test_a_call_is_sent_and_its_id_printed(shop: Taskstream, broker: FakeBroker, capsys: Capture, name: str) -> None:
    assert call(name, "--args", '["tea"]', "--kwargs", '{"when": "2026-07-02"}') == 0
    (sent,) = broker.sent
    assert (sent.stream, sent.message.name) == ("shop", "shop.order")
    assert json.loads(sent.message.body) == {"args": ["tea"], "kwargs": {"when": "2026-07-02"}}
    said = capsys.readouterr()
    assert said.out == f"{sent.message.id}\n"
    assert "broker redis://nowhere (TASKSTREAM_BROKER)" in said.err and "shop is open" in said.err


def test_options_go_along(shop: Taskstream, broker: FakeBroker, capsys: Capture) -> None:
    options = [
        "--queue",
        "slow",
        "--eta",
        "2999-01-01T00:00:00Z",
        "--expires",
        "9.5",
        "--priority",
        "1",
        "--task-id",
        "mine",
        "--json",
    ]
    assert call("order", "--args", '["tea"]', "--headers", '{"customer": 7}', *options) == 0
    (sent,) = broker.sent
    assert (sent.stream, sent.due_ms, sent.message.id) == ("slow", 32472144000000, "mine")
    assert (sent.message.expires_in_ms, sent.message.priority) == (9500, 1)
    assert sent.message.headers is not None and sent.message.headers["customer"] == 7
    assert json.loads(capsys.readouterr().out) == {"id": "mine", "state": "SCHEDULED"}


def test_by_name_alone_nothing_but_json_is_checked(broker: FakeBroker, capsys: Capture) -> None:
    given = ("far.away", "--kwargs", '{"any": [1, null]}', "--ordering-key", "k")
    assert call(*given, by=("--queue", "elsewhere")) == 0
    (sent,) = broker.sent
    assert (sent.stream, sent.message.name, sent.ordering_key) == ("elsewhere", "far.away", "k")
    assert json.loads(sent.message.body) == {"kwargs": {"any": [1, None]}}
    assert call("far.away", by=()) == 2
    assert "where is far.away? Name its code with -A" in capsys.readouterr().err


def test_a_result_is_waited_for(shop: Taskstream, broker: FakeBroker, capsys: Capture) -> None:
    finish(shop, broker, "SUCCESS", value=Raw(b'{"n":1}'))
    assert call("order", "--args", '["tea"]', "--wait") == 0
    assert capsys.readouterr().out == '{"n":1}\n'
    assert call("order", "--args", '["tea"]', "--wait", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["value"], found["task"]) == ("SUCCESS", {"n": 1}, "shop.order")


def test_a_failure_is_told_with_status_1(shop: Taskstream, broker: FakeBroker, capsys: Capture) -> None:
    finish(shop, broker, "FAILURE", error=Failure("ValueError", "no\ntea", "Traceback"))
    assert call("order", "--args", '["tea"]', "--wait") == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].endswith("ended as FAILURE: ValueError: no\\ntea")
    assert call("order", "--args", '["tea"]', "--wait", "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"] == {"type": "ValueError", "message": "no\ntea"}


def test_no_result_in_time_is_told_with_status_1(shop: Taskstream, broker: FakeBroker, capsys: Capture) -> None:
    assert call("order", "--args", '["tea"]', "--wait", "--timeout", "0", "--json") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["state"] == "PENDING" and "no outcome of message" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ordre"], "app shop has no task 'ordre'; did you mean 'shop.order'?"),
        (["order"], "shop.order: item: required, but not given."),
        (["order", "--args", '["tea", "soon"]'], "when: "),
        (["order", "--args", "{}"], "is no array"),
        (["order", "--args", "tea"], "is not valid JSON"),
        (["order", "--kwargs", "[1]"], "is no object"),
        (["order", "--args", '["tea"]', "--eta", "soon"], "is not a date and time"),
        (["order", "--args", '["tea"]', "--eta", "2026-07-02T10:00:00"], "has no time zone"),
        (["order", "--args", '["tea"]', "--expires", "nan"], "expires: "),
        (["order", "--args", '["tea"]', "--priority", "10"], "10"),
        (["order", "--args", '["tea"]', "--queue", "a b"], "queue: "),
        (["order", "--args", '["tea"]', "--task-id", ""], "task_id: "),
        (["order", "--args", '["tea"]', "--timeout", "3"], "--timeout is for --wait"),
        (["order", "--args", '["tea"]', "--wait", "--results", "ftp://x"], "ftp://x"),
    ],
)
def test_what_cannot_be_sent_is_told_with_status_2(
    shop: Taskstream, broker: FakeBroker, capsys: Capture, arguments: list[str], said: str
) -> None:
    assert call(*arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("taskstream: ") and said in last
    assert broker.sent == []


def test_an_app_without_results_cannot_be_waited_for(
    monkeypatch: pytest.MonkeyPatch, broker: FakeBroker, capsys: Capture
) -> None:
    monkeypatch.setattr(loading, "load_app", lambda target: Taskstream("bare"))
    assert call("bare.task", "--wait", by=("-A", "bare:app")) == 2
    assert "app bare keeps no results to wait for" in capsys.readouterr().err
    assert broker.sent == []


@pytest.mark.parametrize(("options", "told"), [((), True), (("--task-id", "mine"), False)])
def test_a_broker_that_does_not_confirm(
    shop: Taskstream, broker: FakeBroker, capsys: Capture, options: tuple[str, ...], told: bool
) -> None:
    broker.failure = BrokerUnavailable("broker did not reply", maybe_sent=True)
    assert call("order", "--args", '["tea"]', *options) == 1
    assert ("--task-id makes repeating it safe" in capsys.readouterr().err) is told
