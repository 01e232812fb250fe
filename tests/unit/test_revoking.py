"""Which ids are revoked where, and how a process keeps up with what others revoke. No server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from taskstream import AsyncResult, BrokerUnavailable, Taskstream
from taskstream import ValidationError as Invalid
from taskstream.app import revoking
from taskstream.app.group_result import GroupResult
from taskstream_worker.revoked import MOST_ADDED, Revoked


class Source:
    """An app with two queues that keeps what it is asked to revoke."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, bool]] = []

    def queues(self) -> list[str]:
        return ["a", "b"]

    def revoke(self, ids: Any, *, terminate: bool = False, queue: str | None = None) -> None:
        self.asked.append((ids, terminate))


def handle(message_id: str, queue: str | None = None) -> AsyncResult[Any]:
    return AsyncResult(message_id, cast(Any, Source()), queue)


@pytest.mark.parametrize(
    ("given", "queue", "found"),
    [
        ("m1", None, {"x": ["m1"]}),
        ("m1", "q", {"q": ["m1"]}),
        (handle("m1", "mine"), None, {"mine": ["m1"]}),
        (handle("m1", "mine"), "q", {"q": ["m1"]}),
        (handle("m1"), None, {"a": ["m1"], "b": ["m1"]}),
        (["m1", handle("m2", "x"), handle("m3", "y")], None, {"x": ["m1", "m2"], "y": ["m3"]}),
        ((str(n) for n in range(2)), "q", {"q": ["0", "1"]}),
        ([], None, {}),
    ],
)
def test_ids_go_to_the_queues_they_may_be_on(given: Any, queue: str | None, found: dict[str, list[str]]) -> None:
    assert revoking.by_queue(given, queue, ["x"]) == found


@pytest.mark.parametrize(
    ("given", "queue", "said"),
    [
        (5, None, "revoke: give an id, a result or many of them, not 5"),
        (["m1", 5], None, "revoke: 5 is no id of a message"),
        ("a b", None, "revoke: 'a b' is no id of a message"),
        ("m1", "ts:x", "revoke: queue 'ts:x' is not a valid name"),
    ],
)
def test_what_cannot_be_revoked_is_refused(given: Any, queue: str | None, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        Taskstream("shop", broker="redis://nowhere").revoke(given, queue=queue)
    assert said in str(caught.value)


def test_a_group_is_revoked_member_by_member() -> None:
    source = Source()
    leaves = [AsyncResult(str(n), cast(Any, source), "q") for n in range(3)]
    GroupResult("g", [leaves[0], GroupResult("h", leaves[1:])]).revoke(terminate=True)
    assert source.asked == [(leaves, True)]
    GroupResult("empty", []).revoke()


class Server:
    """What Redis knows, and how often it was asked for all of it; away if told so."""

    def __init__(self) -> None:
        self.ids: dict[str, bool] = {}
        self.number = 0
        self.reads = 0
        self.away = False
        self.told = 0

    def call(self, *command: Any) -> Any:
        if self.away:
            raise BrokerUnavailable("away")
        if command[0] == "HGET":
            return str(self.number).encode()
        start, stop = command[2], command[3]
        self.reads += not start
        items = list(self.ids.items())[start : stop + 1]
        return [word for one, ends in items for word in (one.encode(), b"1000.5" if ends else b"1000")]

    def terminate(self, consumer: object) -> None:
        self.told += 1


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def known(server: Server) -> Revoked:
    around = SimpleNamespace(broker=server, queue=server)
    return Revoked(cast(Any, SimpleNamespace(subscription=SimpleNamespace(stream="s", group="g"), around=around)))


def test_everything_is_read_once_before_anything_runs(known: Revoked, server: Server) -> None:
    assert known.stale
    server.number, server.ids = 3, {"a": False, "b": True}
    ids = known.ids
    known.load()
    assert known.ids is ids and ids == {"a": False, "b": True} and not known.stale
    known.load()
    assert server.reads == 1


def test_more_than_one_piece_is_read(known: Revoked, server: Server) -> None:
    server.number, server.ids = 1, {str(n): False for n in range(25_000)}
    known.load()
    assert len(known.ids) == 25_000


def test_a_hint_is_enough_where_none_was_missed(known: Revoked, server: Server) -> None:
    known.load()
    known.hear(1, ["a", "b"], False)
    known.hear(2, ["b"], True)
    known.hear(2, ["late"], True)  # known already, by a renewal
    assert known.ids == {"a": False, "b": True} and server.reads == 0
    # When one was missed
    server.number, server.ids = 4, {"a": True}
    known.hear(4, ["c"], False)
    assert known.ids == {"a": True} and server.reads == 1
    # And what was to be ended stays so
    known.hear(5, ["a"], False)
    assert known.ids == {"a": True}


def test_a_hint_counts_at_once_while_all_are_being_read(known: Revoked, server: Server) -> None:
    # Given a reading that a renewal began, with answers that come late and know nothing of what is revoked meanwhile
    known.load()
    server.number, server.ids = 1, {"a": False}
    asked, answer = Event(), Event()
    at_once = server.call

    def late(*command: Any) -> Any:
        reply = at_once(*command)
        asked.set()
        answer.wait(10)
        return reply

    server.call = late  # type: ignore[method-assign]
    reading = gevent.spawn(known.load)
    assert asked.wait(10)
    # When a hint comes in between
    hearing = gevent.spawn(known.hear, 2, ["b"], True)
    gevent.sleep(0)
    # Then it counts before the answers are there, and still does when they are
    assert known.ids == {"b": True}
    server.ids = {"a": False}
    answer.set()
    reading.get(timeout=10)
    assert known.ids == {"a": False, "b": True}
    hearing.get(timeout=10)
    assert known.ids == {"a": False, "b": True} and server.reads == 1


def test_what_is_forgotten_is_dropped_in_the_end(known: Revoked, server: Server) -> None:
    known.load()
    for n in range(MOST_ADDED // 100):
        known.hear(n + 1, [f"{n}-{m}" for m in range(100)], False)
    assert len(known.ids) == MOST_ADDED and server.reads == 0
    server.number, server.ids = MOST_ADDED // 100 + 1, {"left": False}
    known.hear(server.number, ["left"], False)
    assert known.ids == {"left": False} and server.reads == 1


def test_while_redis_is_away_it_is_known_that_something_may_be_missing(known: Revoked, server: Server) -> None:
    known.load()
    server.away = True
    with pytest.raises(BrokerUnavailable):
        known.hear(7, ["a"], False)
    assert known.stale
    server.away, server.number, server.ids = False, 7, {"a": False}
    known.load()
    assert known.ids == {"a": False} and not known.stale
