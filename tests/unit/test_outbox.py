"""The outbox without a server: what is kept, what goes before what, what happens to its file."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from helpers import eventually

from taskstream.broker import Broker, Envelope
from taskstream.broker.publisher import REMEMBER_PUBLISHED_S, Sent
from taskstream.errors import BrokerUnavailable, ConfigError, QueueFull, TaskstreamError
from taskstream.message import Message
from taskstream.outbox import Outbox, flusher, outbox_path
from taskstream.outbox.flusher import State
from taskstream.outbox.rows import Rows


class FakeBroker:
    """Publishes once under each unique name, like the script; ``trouble`` goes by stream, ``""`` for all."""

    def __init__(self) -> None:
        self.streams: dict[str, list[str]] = {}
        self.known: dict[tuple[str, str], str] = {}
        self.trouble: dict[str, TaskstreamError] = {}
        self.lands = False
        """A message arrives although there is trouble: only its reply is missing."""
        self.calls = 0

    def try_many(self, envelopes: Sequence[Envelope], *, in_order: bool = False) -> Sent:
        assert in_order
        self.calls += 1
        ids: list[str | None] = []
        for stream, message, uniques, *_ in envelopes:
            trouble = self.trouble.get(stream) or self.trouble.get("")
            if trouble is None or self.lands:
                found = next((self.known[stream, one] for one in uniques if (stream, one) in self.known), None)
                if found is None:
                    self.streams.setdefault(stream, []).append(message.id)
                    found = message.id
                self.known |= {(stream, one): found for one in uniques}
                if trouble is None:
                    ids.append(found)
                    continue
            return Sent([*ids, *[None] * (len(envelopes) - len(ids))], trouble)
        return Sent(ids)


AWAY = BrokerUnavailable("broker cannot be reached")
UNSURE = BrokerUnavailable("no reply", maybe_sent=True)
FULL = QueueFull("stream s is full")

MakeOutbox = Callable[..., Outbox]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def make_outbox(tmp_path: Path, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeOutbox]:
    """``make_outbox()``: one more process on the same file; ``sends=False`` holds its thread back."""
    monkeypatch.setattr(flusher, "BACKOFF_MAX_S", 0.1)
    monkeypatch.setattr(flusher, "ELSEWHERE_S", 0.05)
    made: list[Outbox] = []

    def make(*, sends: bool = True) -> Outbox:
        outbox = Outbox(tmp_path / "outbox" / "shop.sqlite3", lambda: cast(Broker, broker))
        if not sends:
            outbox._flusher.start = lambda: None  # type: ignore[method-assign]
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        outbox.close()


def message(one: str, stream: str = "s", *uniques: str) -> Envelope:
    return Envelope(stream, Message(one, "n", b'{"args":[1]}', {"tenant": "\u00fc"}), uniques)


def send(outbox: Outbox, *ids: str, stream: str = "s") -> list[str | None]:
    found, error = outbox.try_many([message(one, stream) for one in ids])
    if error is not None:
        raise error
    return found


def waiting(outbox: Outbox) -> dict[str, int]:
    return {found.stream: found.messages for found in outbox.waiting()}


def test_what_redis_takes_is_not_kept(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox()
    assert send(outbox, "a", "b") == ["a", "b"]
    assert broker.streams == {"s": ["a", "b"]} and not outbox.waiting()
    assert ("s", "id:a") in broker.known


def test_what_redis_does_not_take_is_sent_later_in_order(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox()
    broker.trouble[""] = AWAY
    ids = [f"a{number}" for number in range(250)]
    for one in ids[:10]:
        assert send(outbox, one) == [one]
    assert send(outbox, *ids[10:]) == ids[10:]
    assert waiting(outbox) == {"s": 250} and not broker.streams
    broker.trouble.clear()
    eventually(lambda: not outbox.waiting())
    assert broker.streams == {"s": ids}
    # And the next one goes directly again
    calls = broker.calls
    assert send(outbox, "z") == ["z"] and broker.calls == calls + 1


def test_the_message_is_the_same_afterwards(make_outbox: MakeOutbox, broker: FakeBroker, tmp_path: Path) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    one = Envelope("s", Message("a", "n", '{"args":["\u00fc"]}'.encode(), {"x": [1]}), ("id:a", "key:k"), 7)
    outbox.try_many([one])
    (row,) = outbox._rows.head("s", 10)
    assert row.envelope == one and row.tried_ms is None


def test_new_messages_go_behind_those_of_any_process(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    mine, theirs = make_outbox(sends=False), make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(mine, "a")
    broker.trouble.clear()
    send(theirs, "b")
    assert waiting(theirs) == {"s": 2} and not broker.streams
    # Another stream has nothing waiting
    send(theirs, "c", stream="t")
    assert broker.streams == {"t": ["c"]}
    assert theirs.flush() is State.EMPTY
    assert broker.streams == {"t": ["c"], "s": ["a", "b"]}


@pytest.mark.parametrize("lands", [True, False])
def test_a_lost_reply_is_repeated_under_the_same_name(make_outbox: MakeOutbox, broker: FakeBroker, lands: bool) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""], broker.lands = UNSURE, lands
    send(outbox, "a", "b")
    assert [row.tried_ms is not None for row in outbox._rows.head("s", 9)] == [True, True]
    broker.lands = False
    assert outbox.flush() is State.STUCK
    broker.trouble.clear()
    assert outbox.flush() is State.EMPTY
    assert broker.streams == {"s": ["a", "b"]}


def test_a_full_queue_is_the_callers_to_wait_for(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox()
    broker.trouble["s"] = FULL
    with pytest.raises(QueueFull):
        send(outbox, "a")
    broker.trouble["s"] = ConfigError("WRONGTYPE")
    with pytest.raises(ConfigError):
        send(outbox, "a")
    assert not outbox.waiting()


@pytest.mark.parametrize("trouble", [FULL, ConfigError("WRONGTYPE")])
def test_a_stream_that_takes_nothing_holds_no_other_one_up(
    make_outbox: MakeOutbox, broker: FakeBroker, trouble: TaskstreamError
) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    for stream in ("a", "b", "c"):
        send(outbox, f"{stream}1", f"{stream}2", stream=stream)
    broker.trouble = {"b": trouble}
    assert outbox.flush() is State.STUCK
    assert broker.streams == {"a": ["a1", "a2"], "c": ["c1", "c2"]}
    # What comes meanwhile keeps its place
    send(outbox, "b3", stream="b")
    broker.trouble.clear()
    assert outbox.flush() is State.EMPTY
    assert broker.streams["b"] == ["b1", "b2", "b3"]


def test_a_key_that_waits_is_not_kept_twice(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    for one in ("a", "b"):
        ids, error = outbox.try_many([message(one, "s", "key:k")])
        assert error is None and ids == ["a"]
    assert outbox.try_many([message("c", "t", "key:k")]).ids == ["c"]
    assert waiting(outbox) == {"s": 1, "t": 1}
    broker.trouble.clear()
    outbox.flush()
    # Sent: the name is free for the file, and known to Redis
    assert outbox.try_many([message("d", "s", "key:k")]).ids == ["a"]


def test_one_process_sends_at_a_time(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    mine, theirs = make_outbox(sends=False), make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(mine, "a")
    with theirs._flusher._lock() as locked:
        assert locked
        broker.trouble.clear()
        assert mine.flush() is State.ELSEWHERE
    assert mine.flush() is State.EMPTY


def test_what_another_process_left_is_sent(
    make_outbox: MakeOutbox, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "IDLE_S", 0.05)
    killed, idle = make_outbox(sends=False), make_outbox()
    send(idle, "first")
    broker.trouble[""] = AWAY
    send(killed, "left")
    broker.trouble.clear()
    eventually(lambda: broker.streams == {"s": ["first", "left"]})


def test_a_full_disk_says_so_and_keeps_nothing(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(outbox, "a")
    connection = outbox._rows._connection
    assert connection is not None
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    big = [Envelope("s", Message(f"b{number}", "n", b'"%s"' % (b"x" * 5000))) for number in range(10)]
    ids, error = outbox.try_many(big)
    assert ids == [None] * 10 and isinstance(error, BrokerUnavailable) and not error.maybe_sent
    assert "shop.sqlite3: the disk is full: free some space" in str(error)
    assert waiting(outbox) == {"s": 1}
    # Where nothing waits, the answer of the broker is told too
    outbox.path.unlink()
    broker.trouble[""] = UNSURE
    outbox._rows.close()
    outbox.path.mkdir()
    ids, error = outbox.try_many(big)
    assert isinstance(error, BrokerUnavailable) and "cannot be opened" in str(error)


def test_what_was_sent_and_could_not_be_removed_is_not_sent_again(
    make_outbox: MakeOutbox, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(outbox, "a")
    broker.trouble.clear()
    calls = broker.calls
    with monkeypatch.context() as patch:
        patch.setattr(outbox._rows, "remove", lambda positions: (_ for _ in ()).throw(flusher.OutboxProblem("full")))
        for _ in range(3):
            with pytest.raises(flusher.OutboxProblem):
                outbox.flush()
    assert broker.calls == calls + 1 and waiting(outbox) == {"s": 1}
    assert outbox.flush() is State.EMPTY
    assert not outbox.waiting() and broker.calls == calls + 1


def test_a_failed_write_tells_of_the_broker_and_of_the_disk(
    make_outbox: MakeOutbox, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = UNSURE

    def fail(*arguments: Any, **more: Any) -> list[str]:
        raise flusher.OutboxProblem("outbox x: the disk is full")

    monkeypatch.setattr(outbox._rows, "add", fail)
    error = outbox.try_many([message("a")]).error
    assert isinstance(error, BrokerUnavailable) and error.maybe_sent
    assert str(error) == "no reply; and outbox x: the disk is full"


@pytest.mark.parametrize(
    ("content", "said"), [(b"no database at all" * 100, "it is no database"), (None, "a later release wrote it")]
)
def test_a_file_that_cannot_be_used_is_named(
    make_outbox: MakeOutbox, content: bytes | None, said: str, broker: FakeBroker
) -> None:
    outbox = make_outbox(sends=False)
    outbox.path.parent.mkdir()
    if content is not None:
        outbox.path.write_bytes(content)
    else:
        with sqlite3.connect(outbox.path) as connection:
            connection.execute("PRAGMA user_version = 99")
    with pytest.raises(BrokerUnavailable, match=said):
        send(outbox, "a")
    assert not broker.streams


def test_a_deleted_file_is_made_again(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(outbox, "a")
    outbox.path.unlink()
    send(outbox, "b")
    assert waiting(outbox) == {"s": 1}
    assert Rows(outbox.path).head("s", 9)[0].envelope.message.id == "b"


def test_a_file_made_anew_keeps_what_has_the_place_of_another(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(outbox, "a")
    (old,) = outbox._rows.head("s", 9)
    outbox.path.unlink()
    outbox.try_many([message("b", "s", "key:k")])
    assert outbox._rows.head("s", 9)[0].position == old.position
    outbox._rows.remove([(old.position, "a")])
    assert outbox._rows.head("s", 9)[0].envelope.uniques == ("id:b", "key:k")


def test_looking_makes_no_file(make_outbox: MakeOutbox) -> None:
    outbox = make_outbox(sends=False)
    assert outbox.waiting() == [] and outbox.flush() is State.EMPTY
    assert not outbox.path.parent.exists()


def test_a_lost_reply_of_more_than_a_day_ago_is_told(
    make_outbox: MakeOutbox, broker: FakeBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = UNSURE
    send(outbox, "a")
    broker.trouble.clear()
    later = flusher.now_ms() + (REMEMBER_PUBLISHED_S + 60) * 1000
    monkeypatch.setattr(flusher, "now_ms", lambda: later)
    with caplog.at_level(logging.WARNING, "taskstream"):
        outbox.flush()
    assert "Sending once more what may have been sent more than a day ago" in caplog.text
    assert broker.streams == {"s": ["a"]}


def test_closing_waits_for_what_can_be_sent_and_no_longer(
    make_outbox: MakeOutbox, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.outbox.outbox.EXIT_S", 0.2)
    outbox = make_outbox()
    broker.trouble[""] = AWAY
    send(outbox, "a")
    hangs = threading.Event()
    original = broker.try_many

    def hang(envelopes: Sequence[Envelope], *, in_order: bool) -> Sent:
        hangs.wait()
        return original(envelopes, in_order=in_order)

    broker.try_many = hang  # type: ignore[method-assign]
    broker.trouble.clear()
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 5
    hangs.set()
    eventually(lambda: broker.streams == {"s": ["a"]})
    # It can be used again, and its thread runs again
    broker.trouble[""] = AWAY
    send(outbox, "b")
    broker.trouble.clear()
    eventually(lambda: broker.streams == {"s": ["a", "b"]})


def test_a_forked_child_has_a_file_and_a_thread_of_its_own(make_outbox: MakeOutbox, broker: FakeBroker) -> None:
    outbox = make_outbox(sends=False)
    broker.trouble[""] = AWAY
    send(outbox, "parent")
    with outbox._flusher._lock():
        child = os.fork()
        if child == 0:
            status = 1
            try:
                outbox.start_afresh()
                send(outbox, "child")
                # The parent holds the lock, and the child has not kept it open
                status = 0 if outbox.flush() is State.ELSEWHERE and outbox._flusher._held is None else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    broker.trouble.clear()
    assert outbox.flush() is State.EMPTY
    assert broker.streams == {"s": ["parent", "child"]}


@pytest.mark.parametrize("url", ["outbox", "redis://x", "file://", "file://a\0b", "json://x"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="use file://FOLDER"):
        outbox_path(url, Path("/base"), "shop")


def test_a_relative_folder_starts_from_the_base() -> None:
    assert outbox_path("file://outbox", Path("/base"), "shop.a") == Path("/base/outbox/shop.a.sqlite3")
